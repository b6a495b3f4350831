#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = properties::fold::folds_what_is_covered(&mut arbitrary::Unstructured::new(bytes));
});
