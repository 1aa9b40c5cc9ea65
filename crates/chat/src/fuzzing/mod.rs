//! What has to hold of replies, pages and signatures, whoever made them: see [`convgroup_domain::fuzzing`].
mod page;
mod reply;
mod usersig;

pub use page::page;
pub use reply::reply;
pub use usersig::usersig;

#[cfg(test)]
mod tests {
    use convgroup_domain::fuzzing::check;

    #[test]
    fn page() {
        check("page", super::page);
    }

    #[test]
    fn reply() {
        check("reply", super::reply);
    }

    #[test]
    fn usersig() {
        check("usersig", super::usersig);
    }
}
