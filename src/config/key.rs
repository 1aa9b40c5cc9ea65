//! What a key is: its name, what its value may be, and whether that value may be shown.
//!
//! A section declares its keys with [`keys!`], and [`super::reader::Reader`] reads declared keys only. A key that is declared and
//! not read does not compile.
use std::fmt;
use std::ops::RangeInclusive;

use secrecy::SecretString;

use super::layers::Text;
use super::value::Problem;

/// How `config` shows a value.
#[derive(Clone, Copy)]
enum Show {
    /// Not at all.
    Hidden,
    /// As it is written. A wrong one is not shown, because it may be a secret in the wrong place.
    AsWritten,
    /// As these texts, wrong ones too.
    As(fn(&Text) -> Vec<String>),
}

/// What is known of a key without its type.
#[derive(Clone, Copy)]
pub(super) struct Declaration {
    /// The key, dotted.
    pub(super) name: &'static str,
    show: Show,
    /// For a family: what is wrong with a key below it that can't belong to it.
    not_below: Option<&'static str>,
    /// Whether a variable with nothing in it sets the key to nothing.
    pub(super) may_be_empty: bool,
}

impl Declaration {
    const fn new(name: &'static str, show: Show) -> Self {
        Self {
            name,
            show,
            not_below: None,
            may_be_empty: false,
        }
    }

    /// Whether a key of a file or of the environment is this one, or belongs to this family.
    pub(super) fn covers(&self, key: &str) -> bool {
        if self.not_below.is_none() {
            return key == self.name;
        }
        self.below(key)
            .is_some_and(|last| !last.is_empty() && !last.contains('.') && is_word(last))
    }

    /// What is wrong with a key that has the name of this family in front and is not covered.
    pub(super) fn not_below(&self, key: &str) -> Option<&'static str> {
        self.not_below.filter(|_| self.below(key).is_some())
    }

    /// The part of a key behind the name of this family.
    pub(super) fn below<'k>(&self, key: &'k str) -> Option<&'k str> {
        key.strip_prefix(self.name)?.strip_prefix('.')
    }

    /// Whether this stands for the keys below it.
    pub(super) fn is_family(&self) -> bool {
        self.not_below.is_some()
    }

    /// A value as it may be shown; `wrong` if it was refused.
    pub(super) fn shown(&self, text: &Text, wrong: bool) -> String {
        match self.show {
            Show::Hidden => "(hidden)".to_owned(),
            Show::As(texts) => texts(text).join(","),
            Show::AsWritten if wrong => "(not valid)".to_owned(),
            Show::AsWritten => text.as_written().join(","),
        }
    }

    #[cfg(test)]
    pub(super) fn is_hidden(&self) -> bool {
        matches!(self.show, Show::Hidden)
    }
}

/// A key with one value.
///
/// There are three ways to declare one, and each says what is shown. What is hidden is a [`SecretString`], so that `Debug` of the
/// configuration hides it too.
pub(super) struct Key<T> {
    declaration: Declaration,
    /// Reads a text. The error says what is wrong and what is allowed; it never repeats the text.
    pub(super) parse: fn(&str) -> Result<T, Problem>,
}

impl Key<SecretString> {
    /// A key whose value is never shown.
    pub(super) const fn hidden(
        name: &'static str,
        parse: fn(&str) -> Result<SecretString, Problem>,
    ) -> Self {
        Self {
            declaration: Declaration::new(name, Show::Hidden),
            parse,
        }
    }
}

impl<T> Key<T> {
    /// A key whose value is no secret. A wrong value is not shown.
    pub(super) const fn shown(name: &'static str, parse: fn(&str) -> Result<T, Problem>) -> Self {
        Self {
            declaration: Declaration::new(name, Show::AsWritten),
            parse,
        }
    }

    /// The same key, which a variable with nothing in it sets to nothing; it does not set any other key.
    pub(super) const fn or_nothing(self) -> Self {
        let mut declaration = self.declaration;
        declaration.may_be_empty = true;
        Self {
            declaration,
            parse: self.parse,
        }
    }

    /// A key whose value may hold a secret: `show` makes the texts that are shown, and gets wrong values too.
    pub(super) const fn shown_as(
        name: &'static str,
        show: fn(&Text) -> Vec<String>,
        parse: fn(&str) -> Result<T, Problem>,
    ) -> Self {
        Self {
            declaration: Declaration::new(name, Show::As(show)),
            parse,
        }
    }

    /// The key without its type.
    pub(super) const fn declaration(&self) -> Declaration {
        self.declaration
    }
}

impl<T> AsRef<Declaration> for Key<T> {
    fn as_ref(&self) -> &Declaration {
        &self.declaration
    }
}

/// The name.
impl<T> fmt::Display for Key<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.declaration.name)
    }
}

/// A key with a list of values, each read by `item`.
pub(super) struct List<T> {
    item: Key<T>,
    /// How many there may be.
    pub(super) count: RangeInclusive<usize>,
}

impl<T> List<T> {
    /// As many of these as `count` allows.
    pub(super) const fn of(item: Key<T>, count: RangeInclusive<usize>) -> Self {
        Self { item, count }
    }

    /// Reads one item.
    pub(super) fn parse(&self, text: &str) -> Result<T, Problem> {
        (self.item.parse)(text)
    }

    /// The key without its type.
    pub(super) const fn declaration(&self) -> Declaration {
        self.item.declaration
    }
}

impl<T> AsRef<Declaration> for List<T> {
    fn as_ref(&self) -> &Declaration {
        &self.item.declaration
    }
}

/// All keys below a name. Their values are no secrets.
pub(super) struct Family<T> {
    declaration: Declaration,
    /// Reads a text that is written for the part of the key behind the name of the family.
    pub(super) parse: fn(&str, &str) -> Result<T, Problem>,
}

impl<T> Family<T> {
    /// `not_below` says what is wrong with a key below `name` that can't belong to the family.
    pub(super) const fn shown(
        name: &'static str,
        not_below: &'static str,
        parse: fn(&str, &str) -> Result<T, Problem>,
    ) -> Self {
        let mut declaration = Declaration::new(name, Show::AsWritten);
        declaration.not_below = Some(not_below);
        Self { declaration, parse }
    }

    /// The family without its type.
    pub(super) const fn declaration(&self) -> Declaration {
        self.declaration
    }
}

impl<T> AsRef<Declaration> for Family<T> {
    fn as_ref(&self) -> &Declaration {
        &self.declaration
    }
}

/// Declares the keys of a section, in the order of `config/default.toml`: a constant for each, which the section reads, and
/// `KEYS` with all of them.
macro_rules! keys {
    ($($(#[$doc:meta])* $key:ident: $type:ty = $declared:expr;)+) => {
        $(
            $(#[$doc])*
            #[deny(dead_code, reason = "a key that nobody reads is a promise that nobody keeps")]
            const $key: $type = $declared;
        )+
        /// The keys of this section. Each is made anew: a use of the constants would hide that nobody reads them.
        pub(super) const KEYS: &[super::key::Declaration] = &[$(<$type>::declaration(&$declared)),+];
    };
}
pub(super) use keys;

/// Longest key that an error names, in bytes.
const KEY_BYTES_MAX: usize = 64;

/// Whether an error may name a key that nobody knows: what is no word may be an address with a password in the wrong place.
pub(super) fn is_word(key: &str) -> bool {
    let in_word = |char: char| char.is_ascii_alphanumeric() || "._-+ ".contains(char);
    key.len() <= KEY_BYTES_MAX && key.chars().all(in_word)
}
