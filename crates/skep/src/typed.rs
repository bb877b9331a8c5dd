//! Maps with typed keys and values.

use std::marker::PhantomData;

use skep_abi::{Errno, MapType};
use skep_runtime::map::Map;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::loaded::NotFound;

/// A map that is not what the caller takes it for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MapTypeError {
    /// No such map.
    #[error(transparent)]
    NotFound(#[from] NotFound),
    /// Keys or values of another size.
    #[error("map '{map}' has {what} of {actual} bytes, not {wanted}")]
    Size {
        /// The map.
        map: String,
        /// `keys` or `values`.
        what: &'static str,
        /// The map's size in bytes.
        actual: u32,
        /// The type's size in bytes.
        wanted: usize,
    },
}

/// A map with keys `K` and values `V`, plain data without padding.
#[derive(Debug)]
pub struct TypedMap<K, V> {
    map: Map,
    types: PhantomData<fn(K) -> V>,
}

impl<K, V> Clone for TypedMap<K, V> {
    fn clone(&self) -> Self {
        Self { map: self.map.clone(), types: PhantomData }
    }
}

impl<K, V> TypedMap<K, V> {
    pub(crate) fn new(map: Map) -> Result<Self, MapTypeError> {
        let info = map.info();
        let sizes = [("keys", info.key_size, size_of::<K>()), ("values", info.value_size, size_of::<V>())];
        for (what, actual, wanted) in sizes {
            if usize::try_from(actual) != Ok(wanted) {
                return Err(MapTypeError::Size { map: map.name().to_owned(), what, actual, wanted });
            }
        }
        Ok(Self { map, types: PhantomData })
    }

    /// The map with keys and values as bytes.
    #[must_use]
    pub fn raw(&self) -> &Map {
        &self.map
    }
}

impl<K: IntoBytes + Immutable, V: FromBytes> TypedMap<K, V> {
    /// The value of a key; of a per-CPU map, the first vCPU's.
    ///
    /// # Errors
    /// `ENOENT` if the key is not there; `EPERM` if users may not read the map.
    pub fn get(&self, key: &K) -> Result<V, Errno> {
        let bytes = self.map.lookup(key.as_bytes(), 0)?;
        V::read_from_prefix(&bytes).map(|(value, _)| value).map_err(|_| Errno::EINVAL)
    }

    /// The values of a key on every vCPU; of a map that is not per CPU, the one value.
    ///
    /// # Errors
    /// As for [`TypedMap::get`].
    pub fn per_cpu(&self, key: &K) -> Result<Vec<V>, Errno> {
        let bytes = self.map.lookup(key.as_bytes(), 0)?;
        let stride = if self.is_percpu() { size_of::<V>().next_multiple_of(8) } else { size_of::<V>() };
        bytes
            .chunks(stride.max(1))
            .map(|chunk| V::read_from_prefix(chunk).map(|(value, _)| value).map_err(|_| Errno::EINVAL))
            .collect()
    }

    /// The sum of a key's values over all vCPUs.
    ///
    /// # Errors
    /// As for [`TypedMap::get`].
    pub fn sum_cpus(&self, key: &K) -> Result<V, Errno>
    where
        V: std::iter::Sum<V>,
    {
        Ok(self.per_cpu(key)?.into_iter().sum())
    }

    fn is_percpu(&self) -> bool {
        matches!(self.map.info().map_type, MapType::PercpuArray | MapType::PercpuHash | MapType::LruPercpuHash)
    }
}

impl<K: IntoBytes + Immutable, V: IntoBytes + Immutable> TypedMap<K, V> {
    /// Sets the value of a key; of a per-CPU map, on every vCPU.
    ///
    /// # Errors
    /// `E2BIG` for a full map or an index out of range; `EPERM` if users may not write the map.
    pub fn set(&self, key: &K, value: &V) -> Result<(), Errno> {
        let percpu =
            matches!(self.map.info().map_type, MapType::PercpuArray | MapType::PercpuHash | MapType::LruPercpuHash);
        let flags = if percpu { skep_abi::update_flags::BPF_F_ALL_CPUS } else { skep_abi::update_flags::BPF_ANY };
        self.map.update(key.as_bytes(), value.as_bytes(), flags)
    }
}

impl<K: IntoBytes + Immutable, V> TypedMap<K, V> {
    /// Removes a key.
    ///
    /// # Errors
    /// `ENOENT` if it is not there; `EINVAL` for maps whose elements cannot be removed.
    pub fn remove(&self, key: &K) -> Result<(), Errno> {
        self.map.delete(key.as_bytes())
    }
}

impl<K: FromBytes, V> TypedMap<K, V> {
    /// The keys, in the map's own order.
    pub fn keys(&self) -> impl Iterator<Item = K> + '_ {
        self.map.keys().filter_map(|bytes| K::read_from_bytes(&bytes).ok())
    }
}
