#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = properties::numeric::decodes_what_it_should(&mut arbitrary::Unstructured::new(bytes));
});
