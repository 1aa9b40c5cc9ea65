//! `[policy]`: the classes of error codes that the operator changed.
use std::collections::BTreeMap;
use std::sync::LazyLock;

use super::key::{Family, keys};
use super::reader::Reader;
use super::value::Problem;
use convgroup_domain::code::{Class, CodeTable, GROUPS_RECREATED, PANIC};

keys! {
    OVERRIDES: Family<Class> = Family::shown("policy.overrides", NO_CODE, class_of);
}

/// What is wrong with an override of something else.
const NO_CODE: &str = "is no code; `convgroup-deleter explain` lists them";

/// The error table with the overrides.
pub(super) fn codes(reader: &mut Reader<'_>) -> CodeTable {
    CodeTable::new(&reader.family(&OVERRIDES))
}

/// Reads the class for a code. Only the class of a failure can be changed, and never into `deleted`: a deletion that nobody saw
/// must not be counted as one.
fn class_of(code: &str, text: &str) -> Result<Class, Problem> {
    static SHIPPED: LazyLock<CodeTable> = LazyLock::new(|| CodeTable::new(&BTreeMap::new()));
    match SHIPPED.spelling(code) {
        Some(spelling) if spelling == code => {}
        Some(spelling) => return Err(format!("is no code; write it as {spelling}").into()),
        None => return Err(NO_CODE.into()),
    }
    if ["0", PANIC, GROUPS_RECREATED].contains(&code) {
        return Err("can't be overridden".into());
    }
    let allowed = || {
        Class::ALL
            .into_iter()
            .filter(|&class| class != Class::Deleted)
    };
    let named = allowed().find(|class| class.label() == text);
    named.ok_or_else(|| {
        let labels: Vec<_> = allowed().map(Class::label).collect();
        format!("is not one of {}", labels.join(" ")).into()
    })
}
