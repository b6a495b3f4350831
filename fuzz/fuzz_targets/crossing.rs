#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = properties::crossing::agrees_with_every_outcome(&mut arbitrary::Unstructured::new(bytes));
});
