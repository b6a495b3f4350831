#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = properties::coverage::covers_what_has_ended(&mut arbitrary::Unstructured::new(bytes));
});
