//! What is verified: the program, its maps' shapes, its types, and the rules asked for.
//!
//! Owns the verifier's input. Invariant: the verdict is a function of these values and of nothing else. Kernel counterpart:
//! `union bpf_attr` of `BPF_PROG_LOAD`, include/uapi/linux/bpf.h, 6.18.

use std::borrow::Cow;

use skep_abi::ctx::CtxLayout;
use skep_abi::helper::HelperProto;
use skep_abi::map_flags;
use skep_abi::{AttachType, MapType, ProgType, RawInsn};
use skep_btf::{Btf, FuncInfo, LineInfo, TypeId};

use crate::profile::Profile;
use crate::verified::Subprog;

/// Flags of a program load, as `BPF_F_*`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProgFlags(pub u32);

impl ProgFlags {
    /// `BPF_F_STRICT_ALIGNMENT`.
    pub const STRICT_ALIGNMENT: u32 = 1 << 0;
    /// `BPF_F_ANY_ALIGNMENT`.
    pub const ANY_ALIGNMENT: u32 = 1 << 1;
    /// `BPF_F_TEST_STATE_FREQ`.
    pub const TEST_STATE_FREQ: u32 = 1 << 3;
    /// `BPF_F_SLEEPABLE`.
    pub const SLEEPABLE: u32 = 1 << 4;
    /// `BPF_F_XDP_HAS_FRAGS`.
    pub const XDP_HAS_FRAGS: u32 = 1 << 5;
    /// `BPF_F_TEST_REG_INVARIANTS`.
    pub const TEST_REG_INVARIANTS: u32 = 1 << 7;

    /// Whether every bit of `flag` is set.
    #[must_use]
    pub const fn has(self, flag: u32) -> bool {
        self.0 & flag == flag
    }
}

/// A field of a map value that only helpers may touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordField {
    /// What it is.
    pub kind: FieldKind,
    /// Byte offset in the value.
    pub offset: u32,
    /// Size in bytes.
    pub size: u32,
    /// What it leads to.
    pub target: FieldTarget,
}

/// A type of objects: of the program, or of the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ObjectType {
    /// A struct of the program's BTF.
    Local(TypeId),
    /// A number in [`skep_abi::kfunc::KERNEL_TYPES`].
    Kernel(u16),
}

/// What a special field leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FieldTarget {
    /// Nothing.
    None,
    /// A kptr: objects of this type.
    Object(ObjectType),
    /// A list head or tree root: objects of this type, linked by the node at this offset.
    Nodes {
        /// Struct of the program's BTF.
        object: TypeId,
        /// Byte offset of the `bpf_list_node` or `bpf_rb_node` in it.
        node: u32,
    },
}

/// Kinds of special fields (`enum btf_field_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the kernel's struct names")]
pub enum FieldKind {
    SpinLock,
    ResSpinLock,
    Timer,
    Workqueue,
    TaskWork,
    KptrUnref,
    KptrRef,
    KptrPercpu,
    Uptr,
    ListHead,
    ListNode,
    RbRoot,
    RbNode,
    Refcount,
}

impl FieldKind {
    /// The kernel's name of the field type in its messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SpinLock => "bpf_spin_lock",
            Self::ResSpinLock => "bpf_res_spin_lock",
            Self::Timer => "bpf_timer",
            Self::Workqueue => "bpf_wq",
            Self::TaskWork => "bpf_task_work",
            Self::KptrUnref | Self::KptrRef => "kptr",
            Self::KptrPercpu => "percpu_kptr",
            Self::Uptr => "uptr",
            Self::ListHead => "bpf_list_head",
            Self::ListNode => "bpf_list_node",
            Self::RbRoot => "bpf_rb_root",
            Self::RbNode => "bpf_rb_node",
            Self::Refcount => "bpf_refcount",
        }
    }
}

/// What the verifier needs to know of a map.
#[derive(Clone, Debug)]
pub struct MapShape<'a> {
    /// Name, at most 15 bytes; may be empty.
    pub name: Cow<'a, str>,
    /// Type.
    pub map_type: MapType,
    /// Key size in bytes.
    pub key_size: u32,
    /// Value size in bytes, as the user gave it.
    pub value_size: u32,
    /// Number of entries.
    pub max_entries: u32,
    /// `BPF_F_*` map flags.
    pub flags: u32,
    /// Of an arena: the address at which user space has it, 0 for nowhere.
    pub user_start: u64,
    /// Whether user space has frozen it.
    pub frozen: bool,
    /// The bytes of a frozen, read-only, one-element array, whose loads become constants.
    pub contents: Option<Cow<'a, [u8]>>,
    /// Special fields of the value.
    pub record: Cow<'a, [RecordField]>,
    /// BTF type of the value in the program's BTF, 0 for none.
    pub btf_value_type_id: u32,
    /// The shape of the maps inside a map of maps.
    pub inner: Option<Box<MapShape<'a>>>,
    /// Map id, for the log only.
    pub id: u32,
}

impl MapShape<'_> {
    /// A map without name, flags or special fields.
    #[must_use]
    pub fn new(map_type: MapType, key_size: u32, value_size: u32, max_entries: u32) -> Self {
        Self {
            name: Cow::Borrowed(""),
            map_type,
            key_size,
            value_size,
            max_entries,
            flags: 0,
            user_start: 0,
            frozen: false,
            contents: None,
            record: Cow::Borrowed(&[]),
            btf_value_type_id: 0,
            inner: None,
            id: 0,
        }
    }

    /// Whether the value has a lock.
    #[must_use]
    pub fn has_lock(&self) -> bool {
        self.record.iter().any(|f| matches!(f.kind, FieldKind::SpinLock | FieldKind::ResSpinLock))
    }

    /// [`Self::user_start`] of a map that a loader makes: it maps an arena that says no address, and where is no matter of
    /// any verdict.
    #[must_use]
    pub fn user_start_of(map_type: MapType, map_extra: u64) -> u64 {
        match (map_type, map_extra) {
            (MapType::Arena, 0) => 1 << 32,
            (MapType::Arena, start) => start,
            _ => 0,
        }
    }

    /// `BPF_F_*` for what programs may do with values; the kernel makes the values of device maps read-only for them.
    #[must_use]
    pub fn prog_flags(&self) -> u32 {
        let devices = matches!(self.map_type, MapType::Devmap | MapType::DevmapHash);
        self.flags | if devices { map_flags::BPF_F_RDONLY_PROG } else { 0 }
    }

    /// The special field of this kind, if the value has one.
    #[must_use]
    pub fn field(&self, kind: FieldKind) -> Option<RecordField> {
        self.record.iter().copied().find(|f| f.kind == kind)
    }
}

/// A kernel function that the program calls, by name.
#[derive(Clone, Debug)]
pub struct KfuncRef<'a> {
    /// Its name, as in `extern … __ksym`.
    pub name: Cow<'a, str>,
}

/// Helper prototypes that an embedder adds to the kernel's.
#[derive(Clone, Debug, Default)]
pub struct HelperTable(pub Vec<HelperProto>);

impl HelperTable {
    /// The prototype with this helper id.
    #[must_use]
    pub fn get(&self, id: u32) -> Option<&HelperProto> {
        self.0.iter().find(|p| p.id == id)
    }
}

/// The function of a verified program that an extension program (`freplace`) is to take the place of.
#[derive(Clone, Copy, Debug)]
pub struct ExtTarget<'a> {
    /// The types of the program that the function is in.
    pub btf: &'a Btf,
    /// The function's `FUNC` in them (`attach_btf_id`).
    pub func: TypeId,
    /// The functions of that program, as verified.
    pub subprogs: &'a [Subprog],
}

/// One program to verify; everything is borrowed.
#[derive(Clone, Debug)]
pub struct ProgramSpec<'a> {
    /// Name, for the log.
    pub name: &'a str,
    /// Program type; of an extension program the type of the program that it extends.
    pub prog_type: ProgType,
    /// Expected attach type; of an extension program that of the program that it extends.
    pub attach_type: AttachType,
    /// The function that it takes the place of: what makes it an extension program.
    pub target: Option<ExtTarget<'a>>,
    /// Load flags.
    pub flags: ProgFlags,
    /// Linked instructions; `MapFd`/`MapIdx` forms index `maps`, kfunc ids index `kfuncs`.
    pub insns: &'a [RawInsn],
    /// The maps it refers to.
    pub maps: &'a [MapShape<'a>],
    /// The kernel functions it calls.
    pub kfuncs: &'a [KfuncRef<'a>],
    /// The object's types.
    pub btf: Option<&'a Btf>,
    /// Function of each subprogram, by first slot; empty without BTF.
    pub func_info: &'a [FuncInfo],
    /// Source line of slots; `insn_off` counts slots of `insns`.
    pub line_info: &'a [LineInfo],
    /// Whether the licence is compatible with the GPL.
    pub gpl_compatible: bool,
    /// The context's layout; the program type's own if absent.
    pub ctx: Option<&'a CtxLayout>,
    /// An embedder's helpers.
    pub helpers: Option<&'a HelperTable>,
}

/// How to verify.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Log level: 0 none, 1 the failing or every path's instructions, 2 every state, +4 statistics (`BPF_LOG_*`).
    pub log_level: u32,
    /// Kernel version rules.
    pub profile: Profile,
    /// Verify as for a user without `CAP_BPF`.
    pub unprivileged: bool,
    /// Prune equivalent states. Off only to test that pruning changes no verdict.
    pub prune: bool,
}

impl Options {
    /// `BPF_LOG_LEVEL1`.
    pub const LOG_LEVEL1: u32 = 1;
    /// `BPF_LOG_LEVEL2`.
    pub const LOG_LEVEL2: u32 = 2;
    /// `BPF_LOG_STATS`.
    pub const LOG_STATS: u32 = 4;
}

impl Default for Options {
    fn default() -> Self {
        Self { log_level: 1, profile: Profile::default(), unprivileged: false, prune: true }
    }
}
