//! What has to hold of configurations and dead letters, whoever wrote them: see [`convgroup_domain::fuzzing`].
mod config;
mod letter;

pub use config::config;
pub use letter::letter;

#[cfg(test)]
mod tests {
    use convgroup_domain::fuzzing::check;

    #[test]
    fn config() {
        check("config", super::config);
    }

    #[test]
    fn letter() {
        check("letter", super::letter);
    }
}
