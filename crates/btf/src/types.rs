//! One BTF type: its kind, its data, and what its bits mean.
//!
//! Owns the in-memory form of a type record. Invariant: no information of the record is lost, so that writing a parsed
//! type gives the bytes it came from. Kernel counterpart: include/uapi/linux/btf.h, 6.18.

use std::fmt;

/// A type's id; 0 is `void`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TypeId(pub u32);

impl TypeId {
    /// `void`.
    pub const VOID: Self = Self(0);

    /// Whether this is `void`.
    #[must_use]
    pub fn is_void(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for TypeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An offset into the string section; 0 is the empty string.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct StrOff(pub u32);

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $text:literal;)*) => {
        /// The kind of a type, numbered as in `BTF_KIND_*`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Kind { $($(#[$doc])* $variant = $number,)* }

        impl Kind {
            /// Every kind that a record can have, in numeric order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The kind with this number; `None` for 0 and for what no kernel defines.
            #[must_use]
            pub fn from_number(number: u32) -> Option<Self> {
                match number { $($number if $number != 0 => Some(Self::$variant),)* _ => None }
            }

            /// The kernel's name, without `BTF_KIND_`.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

kinds! {
    /// Id 0, which has no record.
    Void = 0, "VOID";
    /// Integer, character or boolean.
    Int = 1, "INT";
    /// Pointer.
    Ptr = 2, "PTR";
    /// Array.
    Array = 3, "ARRAY";
    /// Struct.
    Struct = 4, "STRUCT";
    /// Union.
    Union = 5, "UNION";
    /// Enumeration of 32-bit values.
    Enum = 6, "ENUM";
    /// Forward declaration of a struct or union.
    Fwd = 7, "FWD";
    /// Typedef.
    Typedef = 8, "TYPEDEF";
    /// `volatile`.
    Volatile = 9, "VOLATILE";
    /// `const`.
    Const = 10, "CONST";
    /// `restrict`.
    Restrict = 11, "RESTRICT";
    /// Function.
    Func = 12, "FUNC";
    /// Function prototype.
    FuncProto = 13, "FUNC_PROTO";
    /// Variable.
    Var = 14, "VAR";
    /// Data section.
    DataSec = 15, "DATASEC";
    /// Floating-point number.
    Float = 16, "FLOAT";
    /// `btf_decl_tag` attribute.
    DeclTag = 17, "DECL_TAG";
    /// `btf_type_tag` attribute.
    TypeTag = 18, "TYPE_TAG";
    /// Enumeration of 64-bit values.
    Enum64 = 19, "ENUM64";
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Type {
    /// Where its name is; [`StrOff`] 0 for none.
    pub name: StrOff,
    /// What it is.
    pub data: TypeData,
}

/// What a type is, kind by kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TypeData {
    /// `void`: only id 0.
    Void,
    /// Integer.
    Int(Int),
    /// Pointer to.
    Ptr(TypeId),
    /// Array.
    Array(Array),
    /// Struct.
    Struct(Composite),
    /// Union.
    Union(Composite),
    /// Enumeration of 32-bit values.
    Enum(Enum),
    /// Forward declaration.
    Fwd {
        /// Of a union rather than a struct.
        is_union: bool,
    },
    /// Typedef of.
    Typedef(TypeId),
    /// Volatile.
    Volatile(TypeId),
    /// Const.
    Const(TypeId),
    /// Restrict.
    Restrict(TypeId),
    /// Function.
    Func {
        /// Its prototype.
        proto: TypeId,
        /// Who can see it.
        linkage: Linkage,
    },
    /// Function prototype.
    FuncProto(FuncProto),
    /// Variable.
    Var {
        /// Its type.
        ty: TypeId,
        /// Who can see it.
        linkage: Linkage,
    },
    /// Data section.
    DataSec(DataSec),
    /// Floating-point number of this many bytes.
    Float {
        /// Size in bytes.
        size: u32,
    },
    /// Declaration tag.
    DeclTag {
        /// What is tagged.
        ty: TypeId,
        /// Which member or parameter; -1 for the whole.
        component: i32,
        /// A generic attribute rather than a `btf_decl_tag` (the record's kind flag).
        attribute: bool,
    },
    /// Type tag.
    TypeTag {
        /// What is tagged.
        ty: TypeId,
        /// A generic attribute rather than a `btf_type_tag` (the record's kind flag).
        attribute: bool,
    },
    /// Enumeration of 64-bit values.
    Enum64(Enum),
}

/// An integer type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Int {
    /// Size in bytes.
    pub size: u32,
    /// [`Int::SIGNED`], [`Int::CHAR`], [`Int::BOOL`] or 0.
    pub encoding: u8,
    /// Bit at which the value starts inside its storage.
    pub offset: u8,
    /// Bits of the value.
    pub bits: u8,
}

impl Int {
    /// `BTF_INT_SIGNED`.
    pub const SIGNED: u8 = 1;
    /// `BTF_INT_CHAR`.
    pub const CHAR: u8 = 2;
    /// `BTF_INT_BOOL`.
    pub const BOOL: u8 = 4;

    /// Whether it is signed.
    #[must_use]
    pub fn is_signed(self) -> bool {
        self.encoding & Self::SIGNED != 0
    }

    /// Whether it is `bool`.
    #[must_use]
    pub fn is_bool(self) -> bool {
        self.encoding & Self::BOOL != 0
    }

    /// Whether its value starts its storage and has 8, 16, 32, 64 or 128 bits.
    #[must_use]
    pub fn is_regular(self) -> bool {
        self.offset == 0 && matches!(self.bits, 8 | 16 | 32 | 64 | 128)
    }
}

/// An array type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Array {
    /// Type of an element.
    pub elem: TypeId,
    /// Type of an index.
    pub index: TypeId,
    /// Number of elements; 0 for a flexible array.
    pub nelems: u32,
}

/// A struct or union.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Composite {
    /// Size in bytes.
    pub size: u32,
    /// Members, in the order of the record.
    pub members: Vec<Member>,
    /// Whether the record says the size of bit-fields (its kind flag).
    pub kind_flag: bool,
}

/// A member of a struct or union.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Its name; none for an anonymous struct or union.
    pub name: StrOff,
    /// Its type.
    pub ty: TypeId,
    /// Where it starts, in bits.
    pub bit_offset: u32,
    /// Bits of a bit-field; 0 for a plain member.
    pub bitfield_size: u8,
}

/// An enumeration; values are kept as 64 bits, sign-extended where `signed`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enum {
    /// Size in bytes.
    pub size: u32,
    /// Whether values are signed (the record's kind flag).
    pub signed: bool,
    /// The values.
    pub values: Vec<EnumValue>,
}

/// A value of an enumeration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EnumValue {
    /// Its name.
    pub name: StrOff,
    /// Its value: the low 32 bits for `ENUM`, all for `ENUM64`; sign-extended where the enumeration is signed.
    pub value: u64,
}

/// A function prototype.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FuncProto {
    /// Type of the result.
    pub ret: TypeId,
    /// The parameters; a last one of type `void` and no name stands for `...`.
    pub params: Vec<Param>,
}

impl FuncProto {
    /// Whether the last parameter is `...`.
    #[must_use]
    pub fn is_vararg(&self) -> bool {
        self.params.last().is_some_and(|p| p.ty.is_void() && p.name.0 == 0)
    }
}

/// A parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Param {
    /// Its name; none in some prototypes.
    pub name: StrOff,
    /// Its type.
    pub ty: TypeId,
}

/// Who can see a function or a variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Linkage {
    /// This file only.
    Static,
    /// Defined here, visible everywhere.
    Global,
    /// Defined elsewhere.
    Extern,
}

impl Linkage {
    pub(crate) fn from_number(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::Static),
            1 => Some(Self::Global),
            2 => Some(Self::Extern),
            _ => None,
        }
    }

    pub(crate) fn number(self) -> u32 {
        match self {
            Self::Static => 0,
            Self::Global => 1,
            Self::Extern => 2,
        }
    }

    /// `static`, `global` or `extern`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Static => "static",
            Self::Global => "global",
            Self::Extern => "extern",
        }
    }
}

/// A data section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataSec {
    /// Size in bytes; 0 in what clang writes, until the object's section headers are consulted.
    pub size: u32,
    /// What lies in it.
    pub vars: Vec<SecVar>,
}

/// A variable (or, in `.ksyms`, a function) in a data section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SecVar {
    /// The `VAR` or `FUNC`.
    pub ty: TypeId,
    /// Where it starts, in bytes.
    pub offset: u32,
    /// Its size in bytes.
    pub size: u32,
}

impl Type {
    /// `void`.
    pub const VOID: Self = Self { name: StrOff(0), data: TypeData::Void };

    /// The type's kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match &self.data {
            TypeData::Void => Kind::Void,
            TypeData::Int(_) => Kind::Int,
            TypeData::Ptr(_) => Kind::Ptr,
            TypeData::Array(_) => Kind::Array,
            TypeData::Struct(_) => Kind::Struct,
            TypeData::Union(_) => Kind::Union,
            TypeData::Enum(_) => Kind::Enum,
            TypeData::Fwd { .. } => Kind::Fwd,
            TypeData::Typedef(_) => Kind::Typedef,
            TypeData::Volatile(_) => Kind::Volatile,
            TypeData::Const(_) => Kind::Const,
            TypeData::Restrict(_) => Kind::Restrict,
            TypeData::Func { .. } => Kind::Func,
            TypeData::FuncProto(_) => Kind::FuncProto,
            TypeData::Var { .. } => Kind::Var,
            TypeData::DataSec(_) => Kind::DataSec,
            TypeData::Float { .. } => Kind::Float,
            TypeData::DeclTag { .. } => Kind::DeclTag,
            TypeData::TypeTag { .. } => Kind::TypeTag,
            TypeData::Enum64(_) => Kind::Enum64,
        }
    }

    /// The struct or union this is.
    #[must_use]
    pub fn as_composite(&self) -> Option<&Composite> {
        match &self.data {
            TypeData::Struct(composite) | TypeData::Union(composite) => Some(composite),
            _ => None,
        }
    }

    /// The enumeration this is, of 32 or 64 bits.
    #[must_use]
    pub fn as_enum(&self) -> Option<&Enum> {
        match &self.data {
            TypeData::Enum(e) | TypeData::Enum64(e) => Some(e),
            _ => None,
        }
    }

    /// What a qualifier or type tag qualifies; not a typedef.
    #[must_use]
    pub fn qualified(&self) -> Option<TypeId> {
        match self.data {
            TypeData::Volatile(ty) | TypeData::Const(ty) | TypeData::Restrict(ty) | TypeData::TypeTag { ty, .. } => {
                Some(ty)
            }
            _ => None,
        }
    }

    /// What a qualifier, type tag or typedef stands for.
    #[must_use]
    pub fn modified(&self) -> Option<TypeId> {
        match self.data {
            TypeData::Typedef(ty) => Some(ty),
            _ => self.qualified(),
        }
    }
}
