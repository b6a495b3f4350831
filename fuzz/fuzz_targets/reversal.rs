#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = properties::reversal::take_back_what_there_was(&mut arbitrary::Unstructured::new(bytes));
});
