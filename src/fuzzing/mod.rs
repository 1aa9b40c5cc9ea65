//! What has to hold of configurations, dead letters and contexts of traces, whoever wrote them: see [`convgroup_domain::fuzzing`].
mod config;
mod context;
mod letter;

pub use config::config;
pub use context::context;
pub use letter::letter;

#[cfg(test)]
mod tests {
    use convgroup_domain::fuzzing::check;

    #[test]
    fn config() {
        check("config", super::config);
    }

    #[test]
    fn context() {
        check("context", super::context);
    }

    #[test]
    fn letter() {
        check("letter", super::letter);
    }
}
