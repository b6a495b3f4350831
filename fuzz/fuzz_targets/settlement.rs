#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = properties::settlement::weighs_every_outcome(&mut arbitrary::Unstructured::new(bytes));
});
