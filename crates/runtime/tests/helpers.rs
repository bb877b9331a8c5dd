//! Helpers: the same results, packets and map contents as in the running kernel.

mod common;

use common::{Input, MapDef, compare, packet};
use skep_abi::{MapType, ProgType};

fn inputs(lengths: &[usize], protocol: u16) -> Vec<Input> {
    lengths.iter().map(|&len| Input { data: packet(len, protocol), ..Input::default() }).collect()
}

#[test]
fn xdp_adjustments() {
    for helper in [44, 54, 65] {
        for delta in
            [0, 1, 3, 4, -1, -4, -100, -212, -213, -216, -217, -220, -252, 32, 46, 47, 60, 100, 3000, 3456, 3457, -3000]
        {
            let text = format!(
                "r6 = r1
                r2 = {delta}
                call {helper}
                r7 = r0
                r2 = *(u32 *)(r6 +8)
                r3 = *(u32 *)(r6 +0)
                r4 = *(u32 *)(r6 +4)
                r0 = r3
                r0 -= r2
                r4 -= r3
                r0 <<= 16
                r0 |= r4
                if r7 == 0 goto out
                r0 = r7
                out: exit"
            );
            compare(ProgType::Xdp, &text, &[], &inputs(&[60, 64, 300], 0x0800));
        }
    }
}

#[test]
fn metadata_moves_with_the_head() {
    for (meta, head) in [(-4, -8), (-8, 4), (-32, -180), (-32, -185), (-64, -150), (-4, 40)] {
        let text = format!(
            "r6 = r1
            r2 = {meta}
            call bpf_xdp_adjust_meta#54
            if r0 != 0 goto out
            r2 = *(u32 *)(r6 +8)
            r3 = *(u32 *)(r6 +0)
            r4 = r2
            r4 += 4
            if r4 > r3 goto out
            r5 = 0x11223344 ll
            *(u32 *)(r2 +0) = r5
            r1 = r6
            r2 = {head}
            call bpf_xdp_adjust_head#44
            out: exit"
        );
        let with_ctx = Input { data: packet(80, 0x0800), ctx: Some(vec![0, 0, 0, 0, 80, 0, 0, 0]), repeat: 0 };
        compare(ProgType::Xdp, &text, &[], &[with_ctx]);
    }
}

#[test]
fn xdp_bytes_and_fragments() {
    for (offset, len) in [(0, 8), (52, 8), (53, 8), (3516, 8), (4000, 16), (65530, 8), (65536, 1)] {
        let text = format!(
            "r6 = r1
            r1 = r10
            r1 += -16
            r2 = 0
            *(u64 *)(r10 -16) = r2
            *(u64 *)(r10 -8) = r2
            r1 = r6
            r2 = {offset}
            r3 = r10
            r3 += -16
            r4 = {len}
            call bpf_xdp_load_bytes#189
            r7 = r0
            r2 = *(u64 *)(r10 -16)
            r2 ^= -1
            *(u64 *)(r10 -16) = r2
            r1 = r6
            r2 = {offset}
            r3 = r10
            r3 += -16
            r4 = {len}
            call bpf_xdp_store_bytes#190
            r7 += r0
            r1 = r6
            call bpf_xdp_get_buff_len#188
            r0 <<= 8
            r0 += r7
            exit"
        );
        compare(ProgType::Xdp, &text, &[], &inputs(&[60, 3520, 5000], 0x0800));
    }
}

#[test]
fn fragments_shrink() {
    for delta in [-1, -1000, -1480, -1481, -4986, -4987, 0] {
        let text = format!("r2 = {delta}\ncall bpf_xdp_adjust_tail#65\nexit");
        compare(ProgType::Xdp, &text, &[], &inputs(&[5000], 0x0800));
    }
}

#[test]
fn skb_load_and_store() {
    for (helper, offset, len, extra) in [
        (26, 0, 8, 0),
        (26, 52, 8, 0),
        (26, 53, 8, 0),
        (26, -1, 4, 0),
        (26, 0x7fff_ffff, 4, 0),
        (68, 0, 8, 0),
        (68, 0, 8, 1),
        (68, 46, 8, 0),
        (68, 39, 8, 1),
        (68, 0, 8, 2),
        (68, 70000, 1, 1),
        (9, 0, 8, 0),
        (9, 52, 8, 0),
        (9, 53, 8, 0),
        (9, 4, 8, 3),
        (9, 4, 8, 4),
        (9, -1, 8, 0),
    ] {
        for prog_type in [ProgType::SchedCls, ProgType::SocketFilter] {
            if prog_type == ProgType::SocketFilter && helper == 9 {
                continue;
            }
            let text = format!(
                "r6 = r1
                r2 = 0x0102030405060708 ll
                *(u64 *)(r10 -8) = r2
                r2 = {offset}
                r3 = r10
                r3 += -8
                r4 = {len}
                r5 = {extra}
                call {helper}
                r1 = *(u64 *)(r10 -8)
                r2 = r1
                r2 >>= 32
                r1 ^= r2
                r0 += r1
                exit"
            );
            compare(prog_type, &text, &[], &inputs(&[60], 0x0800));
        }
    }
}

#[test]
fn skb_sizes() {
    let cases = [
        (38, 14, 0),
        (38, 13, 0),
        (38, 0, 0),
        (38, 100, 0),
        (38, 16000, 0),
        (38, 16065, 0),
        (38, 60, 1),
        (43, 0, 0),
        (43, 4, 0),
        (43, 200, 0),
        (43, 16100, 0),
        (43, 4, 1),
        (39, 0, 0),
        (39, 60, 0),
        (39, 61, 0),
        (31, 0xdd86, 0),
        (31, 0x0008, 0),
        (31, 0x0608, 0),
        (31, 0xdd86, 1),
    ];
    for (helper, argument, flags) in cases {
        let text = format!(
            "r6 = r1
            r2 = {argument}
            r3 = {flags}
            call {helper}
            r7 = r0
            r0 = *(u32 *)(r6 +0)
            r1 = *(u32 *)(r6 +16)
            r0 <<= 8
            r0 ^= r1
            r0 += r7
            exit"
        );
        for protocol in [0x0800, 0x86dd] {
            compare(ProgType::SchedCls, &text, &[], &inputs(&[60], protocol));
        }
    }
}

#[test]
fn skb_room() {
    for mode in [0, 1, 2] {
        for difference in [0, 4, 20, 0xfff, 0x1000, -4, -20, -26, -27, -40, -100] {
            for flags in [
                0_u64,
                1,
                2,
                4,
                6,
                2 | 8,
                2 | 16,
                8,
                24 | 2,
                32,
                64 | 2,
                128,
                256,
                384,
                512,
                2 | 14 << 56,
                2 | 64 | 14 << 56,
            ] {
                let text = format!(
                    "r6 = r1
                    r2 = {difference}
                    r3 = {mode}
                    r4 = {flags:#x} ll
                    call bpf_skb_adjust_room#50
                    r7 = r0
                    r0 = *(u32 *)(r6 +16)
                    r0 <<= 16
                    r0 += r7
                    exit"
                );
                compare(ProgType::SchedCls, &text, &[], &inputs(&[60], 0x0800));
            }
        }
    }
}

#[test]
fn vlan_tags() {
    let push =
        |proto: u32, tci: u32| format!("r1 = r6\nr2 = {proto}\nr3 = {tci}\ncall bpf_skb_vlan_push#18\nr7 += r0\n");
    let pop = || "r1 = r6\ncall bpf_skb_vlan_pop#19\nr7 += r0\n".to_owned();
    let sequences = [
        push(0x81, 5),
        push(0xa888, 0x2005),
        push(0x1234, 5),
        push(0x81, 5) + &push(0xa888, 7),
        push(0x81, 5) + &push(0xa888, 7) + &push(0x81, 9),
        push(0x81, 5) + &push(0xa888, 7) + &pop(),
        push(0x81, 5) + &pop(),
        pop(),
        pop() + &pop(),
    ];
    for sequence in sequences {
        let text = format!(
            "r6 = r1
            r7 = 0
            {sequence}
            r0 = *(u32 *)(r6 +24)
            r1 = *(u32 *)(r6 +28)
            r0 <<= 4
            r0 ^= r1
            r1 = *(u32 *)(r6 +20)
            r0 <<= 1
            r0 ^= r1
            r1 = *(u32 *)(r6 +16)
            r0 ^= r1
            r1 = *(u32 *)(r6 +0)
            r0 <<= 8
            r0 += r1
            r0 += r7
            exit"
        );
        for protocol in [0x0800, 0x8100, 0x88a8] {
            let mut data = packet(64, protocol);
            data[16..18].copy_from_slice(&0x8100_u16.to_be_bytes());
            compare(ProgType::SchedCls, &text, &[], &[Input { data, ..Input::default() }]);
        }
    }
}

#[test]
fn checksum_replacement() {
    for helper in [10, 11] {
        for offset in [24, 25, 58, 59, 60, 0x10000] {
            for flags in [0, 1, 2, 4, 8, 16 | 2, 32 | 2, 32 | 64 | 4, 128 | 4, 256, 16 | 4] {
                for (from, to) in [(0_u64, 0x1234_5678_u64), (0x1211_1018, 0xffff_ffff), (0x1918, 0x1918)] {
                    let text = format!(
                        "r2 = {offset}
                        r3 = {from:#x} ll
                        r4 = {to:#x} ll
                        r5 = {flags}
                        call {helper}
                        exit"
                    );
                    compare(ProgType::SchedCls, &text, &[], &inputs(&[60], 0x0800));
                }
            }
        }
    }
}

#[test]
fn checksum_difference() {
    for (from, to, seed) in [
        (0, 16, 0),
        (16, 0, 0),
        (16, 16, 0),
        (8, 4, 0xffff),
        (4, 8, 0x1_2345),
        (0, 0, 77),
        (0, 0, 0x1_ffff),
        (3, 4, 0),
        (7, 13, 5),
        (1, 0, 9),
        (0, 2, 0x1_ffff),
        (16, 16, -1),
    ] {
        for words in [(0_u64, 0_u64), (u64::MAX, u64::MAX), (0x0102_0304_0506_0708, 0xfffe_fdfc_fbfa_f9f8)] {
            let text = format!(
                "r1 = {:#x} ll
                *(u64 *)(r10 -8) = r1
                *(u64 *)(r10 -32) = r1
                r1 = {:#x} ll
                *(u64 *)(r10 -16) = r1
                *(u64 *)(r10 -24) = r1
                r1 = r10
                r1 += -16
                r2 = {from}
                r3 = r10
                r3 += -32
                r4 = {to}
                r5 = {seed}
                call bpf_csum_diff#28
                exit",
                words.0, words.1
            );
            compare(ProgType::Xdp, &text, &[], &inputs(&[60], 0x0800));
        }
    }
}

#[test]
fn redirects() {
    for flags in [0, 1, 2, 16] {
        for prog_type in [ProgType::Xdp, ProgType::SchedCls] {
            compare(
                prog_type,
                &format!("r1 = 7\nr2 = {flags}\ncall bpf_redirect#23\nexit"),
                &[],
                &inputs(&[60], 0x0800),
            );
        }
    }
    for flags in [0, 1, 2, 3, 4, 8, 16, 24] {
        let devmap =
            MapDef { name: "devices", map_type: MapType::Devmap, key_size: 4, value_size: 4, max_entries: 4, flags: 0 };
        let text = format!("r1 = map[devices]\nr2 = 1\nr3 = {flags}\ncall bpf_redirect_map#51\nexit");
        compare(ProgType::Xdp, &text, &[devmap], &inputs(&[60], 0x0800));
    }
}

#[test]
fn packet_type_hash_and_time() {
    for kind in [0, 1, 2, 3, 4, 5] {
        let text = format!(
            "r6 = r1\nr2 = {kind}\ncall bpf_skb_change_type#32\nr1 = *(u32 *)(r6 +4)\nr0 <<= 3\nr0 |= r1\nexit"
        );
        compare(ProgType::SchedCls, &text, &[], &inputs(&[60], 0x0800));
    }
    compare(
        ProgType::SchedCls,
        "r6 = r1\nr2 = 77\ncall bpf_set_hash#48\nr0 = *(u32 *)(r6 +68)\nexit",
        &[],
        &inputs(&[60], 0x0800),
    );
    for (time, kind) in [(0, 0), (5, 0), (5, 1), (0, 1), (5, 2), (5, 3)] {
        let text = format!(
            "r6 = r1\nr2 = {time}\nr3 = {kind}\ncall bpf_skb_set_tstamp#192\nr1 = *(u64 *)(r6 +152)\nr0 <<= 8\nr0 += r1\nr1 = *(u8 *)(r6 +180)\nr0 <<= 2\nr0 += r1\nexit"
        );
        for protocol in [0x0800, 0x0806] {
            compare(ProgType::SchedCls, &text, &[], &inputs(&[60], protocol));
        }
    }
}

#[test]
fn congestion_marks() {
    for tos in 0..4_u8 {
        for protocol in [0x0800, 0x86dd, 0x0806] {
            let mut data = packet(80, protocol);
            data[14] = if protocol == 0x0800 { 0x45 } else { 0x60 };
            data[15] = if protocol == 0x0800 { tos } else { tos << 4 };
            compare(ProgType::SchedCls, "call bpf_skb_ecn_set_ce#97\nexit", &[], &[Input { data, ..Input::default() }]);
        }
    }
}

#[test]
fn numbers_from_text() {
    for helper in [105, 106] {
        for text in ["12", "-12", " 42", "0x1f", "077", "08", "abc", "-", "", "99999999", "+5", "0x", "0xg"] {
            for flags in [0, 8, 10, 16, 2, 32] {
                let mut word = [0_u8; 8];
                word[..text.len()].copy_from_slice(text.as_bytes());
                let word = u64::from_le_bytes(word);
                let program = format!(
                    "r1 = {word:#x} ll
                    *(u64 *)(r10 -8) = r1
                    r1 = 7
                    *(u64 *)(r10 -16) = r1
                    r1 = r10
                    r1 += -8
                    r2 = 8
                    r3 = {flags}
                    r4 = r10
                    r4 += -16
                    call {helper}
                    r1 = *(u64 *)(r10 -16)
                    r0 <<= 16
                    r0 ^= r1
                    exit"
                );
                compare(ProgType::Syscall, &program, &[], &[Input { ctx: Some(Vec::new()), ..Input::default() }]);
            }
        }
    }
}
