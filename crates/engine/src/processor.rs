//! The check at start that this processor can run what was compiled, and that what was compiled is what was meant.
//!
//! Absent: a choice between builds at run time. FAISS 1.12 decides by compiler flags; a FAISS with run-time dispatch
//! makes this check smaller, not larger.

use crate::ann;
use crate::error::EngineError;

/// Checks the processor and the FAISS inside this executable. Call it first of all: on an older processor the first
/// vector instruction would end the process without a word.
///
/// # Errors
/// [`EngineError::Processor`] names the first missing feature; [`EngineError::FaissBuild`] says that FAISS was compiled
/// for less than AVX2, as happens when a build folder from before a change of flags is used again.
pub fn check_processor() -> Result<(), EngineError> {
    if let Some(missing) = missing_feature() {
        return Err(EngineError::Processor { missing });
    }
    let options = ann::compile_options();
    if cfg!(target_arch = "x86_64") && !options.contains("AVX2") {
        return Err(EngineError::FaissBuild { options });
    }
    Ok(())
}

/// The first feature of x86-64-v3 that this processor lacks.
#[cfg(target_arch = "x86_64")]
fn missing_feature() -> Option<&'static str> {
    macro_rules! first_missing {
        ($($feature:tt),*) => {
            [$(($feature, is_x86_feature_detected!($feature))),*]
        };
    }
    // Movbe and osxsave belong to the level too; osxsave is what the detection of AVX itself asks for.
    let features = first_missing!(
        "sse3", "ssse3", "sse4.1", "sse4.2", "popcnt", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "lzcnt", "movbe"
    );
    features.into_iter().find(|(_, present)| !present).map(|(name, _)| name)
}

#[cfg(not(target_arch = "x86_64"))]
fn missing_feature() -> Option<&'static str> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faiss_was_compiled_for_avx2_and_this_processor_has_it() {
        check_processor().unwrap();
    }

    #[test]
    fn an_old_processor_is_told_what_it_lacks() {
        let message = EngineError::Processor { missing: "avx2" }.to_string();
        assert!(message.contains("avx2") && message.contains("x86-64-v3"), "{message}");
    }
}
