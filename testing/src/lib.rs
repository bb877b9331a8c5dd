//! Test support: text vectors, generators and the running kernel as an oracle.

pub mod counting;
pub mod examples;
pub mod generate;
pub mod init;
pub mod kernel;
pub mod kernel_btf;
pub mod kernel_light;
pub mod kernel_object;
pub mod map_vectors;
pub mod mutate;
pub mod object_verdict;
pub mod percpu_oracle;
pub mod probe;
pub mod profiles_oracle;
pub mod proof;
pub mod random;
pub mod shadow;
pub mod soak;
pub mod summary;
pub mod tail_calls;
pub mod vectors;
pub mod verdict;
pub mod verifier_case;
