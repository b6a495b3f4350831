#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = properties::numeric::encodes_what_it_decodes(&mut arbitrary::Unstructured::new(bytes));
});
