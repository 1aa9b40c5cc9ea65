//! What has to hold of replies and signatures, whoever made them: see [`convgroup_domain::fuzzing`].
mod reply;
mod usersig;

pub use reply::reply;
pub use usersig::usersig;

#[cfg(test)]
mod tests {
    use convgroup_domain::fuzzing::check;

    #[test]
    fn reply() {
        check("reply", super::reply);
    }

    #[test]
    fn usersig() {
        check("usersig", super::usersig);
    }
}
