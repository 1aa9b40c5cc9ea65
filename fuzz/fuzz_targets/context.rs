#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| convgroup_deleter::fuzzing::context(data));
