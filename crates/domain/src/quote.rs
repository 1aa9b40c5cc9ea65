//! Quoting of names for others to read: a shell, a regular expression. Every command line that is printed goes through here.

/// A text as one word for a POSIX shell: as it is where it is a plain word, else in single quotes.
#[must_use]
pub fn shell(text: &str) -> String {
    let plain = |char: char| char.is_ascii_alphanumeric() || "-_./:=,+".contains(char);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// A text as a regular expression (PCRE, as RabbitMQ's permissions and policies are) that matches it alone, unanchored.
#[must_use]
pub fn regex(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        // A backslash before any ASCII character but letters and digits makes it literal.
        if char.is_ascii() && !char.is_ascii_alphanumeric() && !"-_ :/'\"".contains(char) {
            escaped.push('\\');
        }
        escaped.push(char);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_words_stay_and_others_are_quoted() {
        for (text, quoted) in [
            ("convgroup.delete", "convgroup.delete"),
            ("/", "/"),
            ("", "''"),
            ("a b", "'a b'"),
            ("it's", r"'it'\''s'"),
            ("^$", "'^$'"),
            ("a\\b", r"'a\b'"),
            ("größe", "'größe'"),
            ("~x", "'~x'"),
            ("a;b`c$(d)", "'a;b`c$(d)'"),
        ] {
            assert_eq!(shell(text), quoted);
        }
    }

    #[test]
    fn what_means_something_in_an_expression_is_escaped() {
        for (text, escaped) in [
            ("convgroup.delete", r"convgroup\.delete"),
            ("chat+delete", r"chat\+delete"),
            ("a(b)", r"a\(b\)"),
            ("it's", "it's"),
            (r"a\b", r"a\\b"),
            ("[x]{1}^$|?*#&~!", r"\[x\]\{1\}\^\$\|\?\*\#\&\~\!"),
            ("größe", "größe"),
        ] {
            assert_eq!(regex(text), escaped);
        }
    }
}
