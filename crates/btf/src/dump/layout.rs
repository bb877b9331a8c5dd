//! How a C compiler lays out what the dump prints.
//!
//! Owns alignment and packing. Invariant: for every struct printed, the compiler's rules applied to the printed members
//! give the offsets and the size of the BTF; where they would not, padding or `packed` is added. Kernel counterpart:
//! `btf_dump_emit_bit_padding`, tools/lib/bpf/btf_dump.c, 6.18.

use std::collections::HashMap;

use crate::check::own_size;
use crate::error::{Error, Result};
use crate::graph::Btf;
use crate::types::{Composite, Kind, Member, TypeData, TypeId};

/// What the layout of one struct or union needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Alignment in bytes as printed.
    pub(crate) align: u32,
    /// Whether it must be printed with `packed`.
    pub(crate) packed: bool,
}

/// Where a member lies, in bits; old-style bit-fields are brought to the new form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) start: u64,
    /// Width of a bit-field; `None` for a plain member.
    pub(crate) width: Option<u32>,
    /// Bits of the member's type.
    pub(crate) type_bits: u64,
    /// Alignment of the member's type, in bits.
    pub(crate) align_bits: u64,
}

impl Place {
    pub(crate) fn end(&self) -> u64 {
        self.start.saturating_add(self.width.map_or(self.type_bits, u64::from))
    }

    /// Where the compiler puts this member when everything before it ends at `cursor`.
    pub(crate) fn natural_start(&self, cursor: u64, packed: bool) -> u64 {
        match self.width {
            _ if packed && self.width.is_some() => cursor,
            _ if packed => cursor.next_multiple_of(8),
            Some(width) => {
                let unit = self.type_bits.max(8);
                let used = cursor % unit;
                if used.saturating_add(u64::from(width)) > unit { cursor.next_multiple_of(unit) } else { cursor }
            }
            None => cursor.next_multiple_of(self.align_bits.max(8)),
        }
    }
}

/// Shapes of the composites seen so far.
#[derive(Debug, Default)]
pub(crate) struct Layout {
    shapes: HashMap<TypeId, Shape>,
}

impl Layout {
    /// The shape of a composite. Parts are measured first with a stack of its own: by-value depth can be large.
    pub(crate) fn shape(&mut self, btf: &Btf, id: TypeId) -> Result<Shape> {
        let mut work = vec![id];
        while let Some(&top) = work.last() {
            if self.shapes.contains_key(&top) {
                work.pop();
                continue;
            }
            let Some(composite) = btf.get(top).and_then(|ty| ty.as_composite()) else {
                return Err(Error::Internal("the shape of what is no composite"));
            };
            let before = work.len();
            for member in &composite.members {
                let part = btf.element_of(member.ty);
                if btf.get(part).is_some_and(|ty| ty.as_composite().is_some()) && !self.shapes.contains_key(&part) {
                    work.push(part);
                }
            }
            if work.len() == before {
                let shape = self.measure(btf, top, composite)?;
                self.shapes.insert(top, shape);
                work.pop();
            }
        }
        self.shapes.get(&id).copied().ok_or(Error::Internal("a shape was not measured"))
    }

    /// Alignment of any type in bytes, as printed.
    pub(crate) fn align(&mut self, btf: &Btf, id: TypeId) -> Result<u32> {
        let elem = btf.element_of(id);
        match btf.get(elem).map(|ty| &ty.data) {
            Some(TypeData::Struct(_) | TypeData::Union(_)) => Ok(self.shape(btf, elem)?.align),
            Some(TypeData::Float { size: 12 }) => Ok(4),
            Some(data) => {
                let size = own_size(data).unwrap_or(1).max(1);
                Ok(if size.is_power_of_two() { size.min(16) } else { 1 })
            }
            None => Ok(1),
        }
    }

    pub(crate) fn place(&mut self, btf: &Btf, member: &Member) -> Result<Place> {
        let type_bits = u64::from(btf.size_of(member.ty)?).saturating_mul(8);
        let align_bits = u64::from(self.align(btf, member.ty)?).saturating_mul(8);
        let mut place = Place { start: u64::from(member.bit_offset), width: None, type_bits, align_bits };
        if member.bitfield_size != 0 {
            place.width = Some(u32::from(member.bitfield_size));
        } else if let Some(TypeData::Int(int)) = btf.get(btf.resolve(member.ty)).map(|ty| &ty.data)
            && u64::from(int.bits) != type_bits
        {
            place.start = place.start.saturating_add(u64::from(int.offset));
            place.width = Some(u32::from(int.bits));
        }
        Ok(place)
    }

    fn measure(&mut self, btf: &Btf, id: TypeId, composite: &Composite) -> Result<Shape> {
        let mut align = 1;
        let mut packed = false;
        for member in &composite.members {
            let place = self.place(btf, member)?;
            align = align.max(u32::try_from(place.align_bits / 8).unwrap_or(1));
            let fits = match place.width {
                Some(width) => {
                    (place.start % place.type_bits.max(8)).saturating_add(u64::from(width)) <= place.type_bits
                }
                None => place.start % place.align_bits.max(8) == 0,
            };
            packed |= !fits;
        }
        packed |= !composite.size.is_multiple_of(align);
        // A union's bit-fields all start at 0, and a packed union has only its size to keep.
        if btf.kind(id) == Kind::Union && composite.size.is_multiple_of(align) {
            packed = false;
        }
        Ok(Shape { align: if packed { 1 } else { align }, packed })
    }
}
