//! Choices of a compilation.

/// How to compile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// For which architecture.
    pub arch: Arch,
    /// What the CPU can do; found out by the caller.
    pub features: CpuFeatures,
    /// Whether to combine and remove instructions; off gives one sequence per instruction.
    pub optimize: bool,
}

impl Options {
    /// Optimized code for `arch` without optional CPU features.
    #[must_use]
    pub const fn new(arch: Arch) -> Self {
        Self { arch, features: CpuFeatures::BASELINE, optimize: true }
    }

    /// The same with CPU features.
    #[must_use]
    pub const fn with_features(self, features: CpuFeatures) -> Self {
        Self { features, ..self }
    }

    /// The same with or without optimization.
    #[must_use]
    pub const fn with_optimize(self, optimize: bool) -> Self {
        Self { optimize, ..self }
    }
}

/// Target architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arch {
    /// x86-64 with the System V ABI.
    X64,
    /// 64-bit Arm, little-endian, AAPCS64.
    Arm64,
}

impl Arch {
    /// The architecture that this crate was built for, if it has a back end.
    #[must_use]
    pub const fn host() -> Option<Self> {
        if cfg!(target_arch = "x86_64") {
            Some(Self::X64)
        } else if cfg!(target_arch = "aarch64") {
            Some(Self::Arm64)
        } else {
            None
        }
    }
}

/// Optional instructions of the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct CpuFeatures {
    /// x86-64: `shlx`, `shrx`, `sarx`, `rorx`, `mulx`.
    pub bmi2: bool,
    /// x86-64: `movbe`.
    pub movbe: bool,
    /// arm64: large system extensions (`ldadd`, `cas`, `swp`, …).
    pub lse: bool,
}

impl CpuFeatures {
    /// None of them.
    pub const BASELINE: Self = Self { bmi2: false, movbe: false, lse: false };
    /// All of them.
    pub const ALL: Self = Self { bmi2: true, movbe: true, lse: true };

    /// What this machine has.
    #[must_use]
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            Self {
                bmi2: std::arch::is_x86_feature_detected!("bmi2"),
                movbe: std::arch::is_x86_feature_detected!("movbe"),
                lse: false,
            }
        }
        #[cfg(target_arch = "aarch64")]
        {
            Self { lse: std::arch::is_aarch64_feature_detected!("lse"), ..Self::BASELINE }
        }
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        {
            Self::BASELINE
        }
    }
}
