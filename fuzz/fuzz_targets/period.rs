#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = properties::period::periods_are_those_of_the_calendar(&mut arbitrary::Unstructured::new(bytes));
});
