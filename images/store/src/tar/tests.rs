//! The grammar: cases 60 to 69 of the list of hostile images.

use super::*;
use crate::testing::{Block, Tar, record};

fn read(bytes: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, TarError> {
    let mut archive = Archive::new(bytes);
    let mut entries = Vec::new();
    while let Some(entry) = archive.next_entry()? {
        let mut data = Vec::new();
        loop {
            let chunk = archive.chunk()?;
            if chunk.is_empty() {
                break;
            }
            data.extend_from_slice(chunk);
            let length = chunk.len();
            archive.consume(length);
        }
        entries.push((entry, data));
    }
    archive.finish()?;
    Ok(entries)
}

fn names(bytes: &[u8]) -> Vec<String> {
    read(bytes).unwrap().iter().map(|(entry, _data)| entry.path.escape_ascii().to_string()).collect()
}

#[track_caller]
fn refused(bytes: &[u8], reason: &str) {
    let error = read(bytes).unwrap_err();
    let text = error.problem.to_string();
    assert!(text.contains(reason), "{text:?} doesn't say {reason:?}");
}

#[test]
fn what_common_writers_write_is_read() {
    let mut builder = ::tar::Builder::new(Vec::new());
    let long = format!("{}/file", "directory/".repeat(20));
    for (name, data) in [("short", &b"x"[..]), (long.as_str(), &[7; 1000])] {
        let mut header = ::tar::Header::new_gnu();
        header.set_size(u64::try_from(data.len()).unwrap());
        header.set_mode(0o4755);
        header.set_uid(1000);
        header.set_mtime(12);
        header.set_cksum();
        builder.append_data(&mut header, name, data).unwrap();
    }
    let entries = read(&builder.into_inner().unwrap()).unwrap();
    assert_eq!(entries[0].0.path, b"short");
    assert_eq!((entries[0].0.mode, entries[0].0.uid, entries[0].0.modified), (0o4755, 1000, (12, 0)));
    assert_eq!(entries[1].0.path, long.as_bytes());
    assert_eq!(entries[1].1, [7; 1000]);
}

#[test]
fn prefix_and_pax_and_long_names() {
    let prefixed = Block::new(b'0', b"name", 0).with(345, b"some/prefix");
    assert_eq!(names(&Tar::default().block(prefixed.clone()).end()), ["some/prefix/name"]);
    // GNU has times where POSIX has the prefix.
    assert_eq!(names(&Tar::default().block(prefixed.with(257, b"ustar  \0")).end()), ["name"]);
    let pax = Tar::default().pax(&record(b"path", b"pax")).file("header", b"").end();
    assert_eq!(names(&pax), ["pax"]);
    let gnu = Tar::default().extended(b'L', b"gnu\0").file("header", b"").end();
    assert_eq!(names(&gnu), ["gnu"]);
    let empty = Tar::default().pax(&record(b"path", b"")).file("header", b"").end();
    assert_eq!(names(&empty), ["header"]);
}

#[test]
fn case_62_the_pax_size_counts_for_the_next_entry_too() {
    let hidden = Tar::default().file("smuggled", b"evil").0;
    let size = hidden.len().to_string();
    let bytes = Tar::default()
        .pax(&record(b"size", size.as_bytes()))
        .block(Block::new(b'0', b"outer", 0))
        .data(&hidden)
        .file("after", b"")
        .end();
    let entries = read(&bytes).unwrap();
    assert_eq!(entries.iter().map(|(entry, _)| entry.path.clone()).collect::<Vec<_>>(), [&b"outer"[..], b"after"]);
    assert_eq!(entries[0].1, hidden);
}

#[test]
fn case_63_names_twice_and_global_names() {
    let twice = [record(b"path", b"a"), record(b"path", b"b")].concat();
    refused(&Tar::default().pax(&twice).file("x", b"").end(), "twice");
    let both = Tar::default().pax(&record(b"path", b"a")).extended(b'L', b"b\0").file("x", b"").end();
    refused(&both, "twice");
    let two = Tar::default().pax(&record(b"path", b"a")).pax(&record(b"size", b"1")).file("x", b"").end();
    refused(&two, "twice");
    refused(&Tar::default().extended(b'g', &record(b"path", b"a")).file("x", b"").end(), "global");
    refused(&Tar::default().extended(b'g', &record(b"size", b"1")).file("x", b"").end(), "global");
    let comment = Tar::default().extended(b'g', &record(b"comment", b"from git")).file("x", b"").end();
    assert_eq!(names(&comment), ["x"]);
}

#[test]
fn cases_64_and_65_long_headers() {
    refused(&Tar::default().pax(b"99 path=x\n").file("x", b"").end(), "length");
    refused(&Tar::default().block(Block::new(b'L', b"l", 1 << 30)).end(), "extended header");
    refused(&Tar::default().block(Block::new(b'x', b"l", 1 << 30)).end(), "extended header");
    refused(&Tar::default().block(Block::new(b'L', b"l", 600)).data(b"cut").0, "middle");
    refused(&Tar::default().extended(b'L', b"name\0").end(), "no entry");
    refused(&Tar::default().pax(&record(b"path", b"a")).end(), "no entry");
    refused(&Tar::default().pax(&record(b"path", b"a\0b")).file("x", b"").end(), "NUL");
}

#[test]
fn case_66_checksums() {
    let good = Tar::default().file("x", b"").end();
    let mut bad = good.clone();
    bad[0] ^= 1;
    refused(&bad, "checksum");
    // A name with high bytes, summed up signed as some old writers did.
    let mut block = Block::new(b'0', b"\xff\xfe", 0).with(148, b"        ").0;
    let sum: i64 = block.iter().map(|byte| i64::from(i8::from_ne_bytes([*byte]))).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    assert_eq!(names(&Tar::default().raw(&block).end()), ["\\xff\\xfe"]);
}

#[test]
fn case_67_the_end() {
    let file = Tar::default().file("x", b"data");
    assert_eq!(names(&file.0), ["x"], "no end at all");
    assert_eq!(names(&file.clone().raw(&[0; 512]).0), ["x"], "half an end");
    assert_eq!(names(&file.clone().raw(&[0; 10240]).0), ["x"], "a long end");
    assert_eq!(names(&[0; 1024]), [""; 0]);
    assert_eq!(names(&[]), [""; 0]);
    let second = Tar::default().file("second", b"").end();
    refused(&file.clone().raw(&[0; 1024]).raw(&second).0, "more behind");
    refused(&file.clone().raw(&[0; 512]).raw(&second).0, "more behind");
    refused(&file.clone().raw(&[0; 1024]).raw(b"garbage").0, "more behind");
    refused(&file.0[..700], "middle");
    refused(&file.0[..1000], "middle");
    refused(&file.0[..100], "middle");
}

#[test]
fn cases_54_to_61_and_68_numbers_and_types() {
    let check = |at: usize, field: &[u8], reason: &str| {
        refused(&Tar::default().block(Block::new(b'0', b"x", 0).with(at, field)).end(), reason);
    };
    check(124, b"0000000000x\0", "size");
    check(124, b"00000 00007\0", "size");
    check(124, b"\x80\0\0\0\x80\0\0\0\0\0\0\0", "size");
    check(124, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "size");
    check(108, b"\x80\0\0\0\xff\xff\xff\xff", "uid");
    check(116, b"\xff\xff\xff\xff\xff\xff\xff\xff", "gid");
    check(136, b"\x80\0\0\0\x80\0\0\0\0\0\0\0", "mtime");
    check(508, b"tar\0", "star");
    refused(&Tar::default().pax(&record(b"uid", b"4294967295")).file("x", b"").end(), "uid");
    refused(&Tar::default().pax(&record(b"mtime", b"9223372036854775808")).file("x", b"").end(), "mtime");
    refused(&Tar::default().pax(&record(b"GNU.sparse.major", b"1")).file("x", b"").end(), "map of holes");
    for kind in [b'7', b'V', b'M', b'D', b'Z', 0xff] {
        refused(&Tar::default().block(Block::new(kind, b"x", 0)).end(), "type");
    }
    for kind in [b'1', b'2', b'3', b'4', b'5', b'6'] {
        refused(&Tar::default().block(Block::new(kind, b"x", 5).with(157, b"y")).data(b"12345").end(), "has data");
    }
    refused(&Tar::default().block(Block::new(b'3', b"x", 0).with(329, b"7777777\0")).end(), "major");
    let negative = Tar::default().block(Block::new(b'0', b"x", 0).with(136, &[0xff; 12])).end();
    assert_eq!(read(&negative).unwrap()[0].0.modified, (-1, 0));
    let mode = Tar::default().block(Block::new(b'0', b"x", 0).with(100, b"0177777\0")).end();
    assert_eq!(read(&mode).unwrap()[0].0.mode, 0o7777);
    let large = Tar::default().pax(&record(b"uid", b"2147483648")).file("x", b"").end();
    assert_eq!(read(&large).unwrap()[0].0.uid, 1 << 31);
    let old = Tar::default().block(Block::new(0, b"directory/", 0).with(257, &[0; 8])).end();
    assert_eq!(read(&old).unwrap()[0].0.kind, EntryKind::Directory);
}

#[test]
fn no_bytes_make_it_panic() {
    let good = Tar::default()
        .pax(&[record(b"path", b"a"), record(b"mtime", b"-1.5"), record(b"SCHILY.xattr.user.x", b"y")].concat())
        .file("x", b"some data")
        .extended(b'K', b"target\0")
        .symlink("s", "t")
        .end();
    // A small generator of our own: the same bytes in every run.
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    for _round in 0..20_000 {
        let mut bytes = good.clone();
        for _change in 0..4 {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            let at = usize::try_from(seed % 4096).unwrap() % bytes.len();
            bytes[at] = seed.to_le_bytes()[5];
        }
        // Most are caught by the checksum: seal half of them anew.
        if seed & 1 == 0 {
            let starts: Vec<usize> = (0..bytes.len() / 512).map(|block| block * 512).collect();
            for start in starts {
                if bytes[start + 257..].starts_with(b"ustar") {
                    let mut block = [0; 512];
                    block.copy_from_slice(&bytes[start..start + 512]);
                    bytes[start..start + 512].copy_from_slice(&Tar::default().block(Block(block)).0);
                }
            }
        }
        let _either = read(&bytes);
    }
}

#[test]
fn case_60_holes_are_where_a_map_says_or_nowhere() {
    let pax = |records: &[(&[u8], &[u8])]| {
        let records: Vec<u8> =
            records.iter().flat_map(|(key, value)| record(&[b"GNU.sparse.".as_slice(), key].concat(), value)).collect();
        Tar::default().pax(&records)
    };
    let known = pax(&[(b"map", b"2,1,9,2"), (b"size", b"12"), (b"name", b"own")]).file("made/up", b"abc").end();
    let (entry, data) = read(&known).unwrap().remove(0);
    assert_eq!((entry.path.as_slice(), data.as_slice(), entry.size_bytes), (&b"own"[..], &b"abc"[..], 3));
    assert_eq!(entry.sparse, Some(Sparse { real_bytes: 12, fragments: vec![(2, 1), (9, 2)] }));
    let mut in_data = b"2\n0\n1\n1000\n2\n".to_vec();
    in_data.resize(512, 0);
    in_data.extend(b"abc");
    let version: [(&[u8], &[u8]); 3] = [(b"major", b"1"), (b"minor", b"0"), (b"realsize", b"5000")];
    let known = pax(&version).file("x", &in_data).file("next", b"n").end();
    let read_back = read(&known).unwrap();
    assert_eq!(read_back[0].0.sparse, Some(Sparse { real_bytes: 5000, fragments: vec![(0, 1), (1000, 2)] }));
    assert_eq!((&read_back[0].1[..], &read_back[1].1[..]), (&b"abc"[..], &b"n"[..]));

    for (map, size) in [("2,1,2,2", "12"), ("5,1,2,2", "12"), ("0,3", "2"), ("0,2", "9"), ("0,3,1", "9"), ("0,4", "9")]
    {
        let archive = pax(&[(b"map", map.as_bytes()), (b"size", size.as_bytes())]).file("x", b"abc").end();
        refused(&archive, "map of holes");
    }
    refused(&pax(&[(b"map", b"0,3"), (b"size", b"9223372036854775807")]).file("x", b"abc").end(), "more than 6871947");
    refused(&pax(&[(b"map", b"x"), (b"size", b"9")]).file("x", b"abc").end(), "sparse map");
    refused(&pax(&[(b"map", b"0,0"), (b"size", b"9")]).dir("x").end(), "no file");
    refused(&pax(&[(b"other", b"1")]).file("x", b"").end(), "map of holes");
    let many = "0,0,".repeat(70_000) + "0,0";
    refused(&pax(&[(b"map", many.as_bytes()), (b"size", b"9")]).file("x", b"").end(), "pieces");
    for (map, says) in
        [("9999999\n", "pieces"), ("1\n0\n", "ends in the middle"), ("x", "sparse map"), ("\n", "sparse map")]
    {
        let mut data = map.as_bytes().to_vec();
        data.resize(512, if says == "ends in the middle" { b'1' } else { 0 });
        let archive = pax(&version).file("x", &data).end();
        let text = read(&archive).unwrap_err().problem.to_string();
        assert!(text.contains(says) || text.contains("sparse map"), "{map:?}: {text}");
    }
}
