use flate2::{Compress, Compression, FlushCompress};
use proptest::collection::vec;
use proptest::prelude::*;

use super::dictionary::DICTIONARY;
use super::encode::{control_header, pair};
use super::*;

/// Any frame's bytes. Of DATA the payload is zeros.
pub(crate) fn encode(encoder: &mut Encoder, frame: &Frame) -> Vec<u8> {
    let flag = |set: bool, flag: u8| if set { flag } else { 0 };
    match frame {
        Frame::SynStream { stream, associated, priority, fin, unidirectional, headers } => {
            let mut fixed = stream.to_be_bytes().to_vec();
            fixed.extend(associated.to_be_bytes());
            fixed.extend([priority << 5, 0]);
            let flags = flag(*fin, FLAG_FIN) | flag(*unidirectional, FLAG_UNIDIRECTIONAL);
            encoder.with_headers(SYN_STREAM, flags, &fixed, headers)
        }
        Frame::SynReply { stream, fin: false, headers } => encoder.syn_reply(*stream, headers),
        Frame::SynReply { stream, fin, headers } => {
            encoder.with_headers(SYN_REPLY, flag(*fin, FLAG_FIN), &stream.to_be_bytes(), headers)
        }
        Frame::Headers { stream, fin, headers } => {
            encoder.with_headers(HEADERS, flag(*fin, FLAG_FIN), &stream.to_be_bytes(), headers)
        }
        Frame::Reset { stream, status } => reset(*stream, *status).to_vec(),
        Frame::GoAway { last, status } => go_away(*last, *status).to_vec(),
        Frame::WindowUpdate { stream, delta } => pair(WINDOW_UPDATE, *stream, *delta).to_vec(),
        Frame::Ping { id } => ping(*id).to_vec(),
        Frame::Settings { values } if values.is_empty() => settings().to_vec(),
        Frame::Settings { values } => {
            let mut bytes = control_header(SETTINGS, 0, 4 + 8 * values.len()).to_vec();
            bytes.extend(u32::try_from(values.len()).unwrap().to_be_bytes());
            bytes.extend(values.iter().flat_map(|(id, value)| [id.to_be_bytes(), value.to_be_bytes()]).flatten());
            bytes
        }
        Frame::Data { stream, bytes, fin } => {
            let mut frame = data_header(*stream, *fin, bytes.len()).to_vec();
            frame.resize(HEADER_BYTES + bytes.len(), 0);
            frame
        }
        Frame::Unknown { kind } => control_header(*kind, 0, 0).to_vec(),
    }
}

fn headers() -> impl Strategy<Value = Headers> {
    proptest::collection::btree_map("[a-z0-9:-]{1,20}", "\\PC{0,40}", 0..20)
        .prop_map(|map| Headers(map.into_iter().collect()))
}

fn frame() -> impl Strategy<Value = Frame> {
    let stream = 1..=STREAM;
    prop_oneof![
        (stream.clone(), 0..=STREAM, 0..8_u8, any::<[bool; 2]>(), headers()).prop_map(
            |(stream, associated, priority, [fin, unidirectional], headers)| Frame::SynStream {
                stream,
                associated,
                priority,
                fin,
                unidirectional,
                headers
            }
        ),
        (stream.clone(), any::<bool>(), headers()).prop_map(|(stream, fin, headers)| Frame::SynReply {
            stream,
            fin,
            headers
        }),
        (stream.clone(), any::<bool>(), headers()).prop_map(|(stream, fin, headers)| Frame::Headers {
            stream,
            fin,
            headers
        }),
        (stream.clone(), any::<u32>()).prop_map(|(stream, status)| Frame::Reset { stream, status }),
        vec(any::<(u32, u32)>(), 0..SETTINGS_MAX).prop_map(|values| Frame::Settings { values }),
        any::<u32>().prop_map(|id| Frame::Ping { id }),
        (0..=STREAM, any::<u32>()).prop_map(|(last, status)| Frame::GoAway { last, status }),
        (0..=STREAM, 0..=STREAM).prop_map(|(stream, delta)| Frame::WindowUpdate { stream, delta }),
        (stream, 0..3000_usize, any::<bool>()).prop_map(|(stream, length, fin)| Frame::Data {
            stream,
            bytes: 0..length,
            fin
        }),
        (10..100_u16).prop_map(|kind| Frame::Unknown { kind }),
    ]
}

/// The frames of `input`, given in pieces that end at `cuts`; pieces of one DATA frame are put together, and lengths alone
/// remain of them.
fn decode(input: &[u8], cuts: &[usize]) -> Result<Vec<Frame>, SpdyError> {
    let mut decoder = Decoder::new();
    let (mut frames, mut buffer, mut open) = (Vec::<Frame>::new(), Vec::new(), false);
    let mut from = 0;
    for to in cuts.iter().copied().chain([input.len()]) {
        buffer.extend_from_slice(&input[from..to]);
        from = to;
        let mut at = 0;
        loop {
            let step = decoder.decode(&buffer[at..])?;
            assert!(step.consumed <= buffer.len() - at);
            let Some(frame) = step.frame else {
                assert_eq!(step.consumed, 0);
                break;
            };
            assert!(step.consumed > 0, "progress");
            let still_open = decoder.is_within_data();
            match (frame, frames.last_mut()) {
                (Frame::Data { bytes, fin, .. }, Some(Frame::Data { bytes: all, fin: last, .. })) if open => {
                    *all = 0..all.end + bytes.len();
                    *last = fin;
                }
                (Frame::Data { stream, bytes, fin }, _) => {
                    assert_eq!(bytes.end, step.consumed, "the payload ends what was consumed");
                    frames.push(Frame::Data { stream, bytes: 0..bytes.len(), fin });
                }
                (frame, _) => frames.push(frame),
            }
            open = still_open;
            at += step.consumed;
        }
        buffer.drain(..at);
    }
    assert!(buffer.len() < HEADER_BYTES + CONTROL_BYTES_MAX, "no more is left than one control frame");
    Ok(frames)
}

proptest! {
    #[test]
    fn frames_survive_the_way_there_and_back(frames in vec(frame(), 1..12), cuts in vec(any::<prop::sample::Index>(), 0..20)) {
        let mut encoder = Encoder::new();
        let bytes: Vec<u8> = frames.iter().flat_map(|frame| encode(&mut encoder, frame)).collect();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
        cuts.sort_unstable();
        prop_assert_eq!(decode(&bytes, &cuts), Ok(frames));
    }

    #[test]
    fn any_bytes_are_frames_or_an_error(bytes in vec(any::<u8>(), 0..4000), cuts in vec(any::<prop::sample::Index>(), 0..5)) {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len().max(1))).collect();
        cuts.sort_unstable();
        // Where it was cut makes no difference.
        prop_assert_eq!(decode(&bytes, &cuts).ok(), decode(&bytes, &[]).ok());
    }

    #[test]
    fn damaged_frames_are_frames_or_an_error(
        frames in vec(frame(), 1..8),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut encoder = Encoder::new();
        let mut bytes: Vec<u8> = frames.iter().flat_map(|frame| encode(&mut encoder, frame)).collect();
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        // The answer is not known; that there is one, is.
        let _ = decode(&bytes, &[]);
    }

    #[test]
    fn any_block_is_headers_or_an_error(block in vec(any::<u8>(), 0..2000)) {
        let _ = decode(&syn_stream(&deflated(&block)), &[]);
    }
}

#[test]
fn a_cut_at_every_byte_changes_nothing() {
    let named = |name: &str, value: &str| Headers(vec![(name.to_owned(), value.to_owned())]);
    let frames = [
        Frame::SynStream {
            stream: 1,
            associated: 0,
            priority: 0,
            fin: false,
            unidirectional: false,
            headers: named("streamtype", "error"),
        },
        Frame::SynStream {
            stream: 3,
            associated: 0,
            priority: 7,
            fin: true,
            unidirectional: true,
            headers: named("streamtype", "stdin"),
        },
        Frame::Data { stream: 3, bytes: 0..30, fin: false },
        Frame::Data { stream: 3, bytes: 0..0, fin: true },
        Frame::Ping { id: 1 },
        Frame::Settings { values: vec![(4, 100)] },
        Frame::GoAway { last: 3, status: 0 },
    ];
    let mut encoder = Encoder::new();
    let bytes: Vec<u8> = frames.iter().flat_map(|frame| encode(&mut encoder, frame)).collect();
    for cut in 0..bytes.len() {
        assert_eq!(decode(&bytes, &[cut]).unwrap(), frames, "cut at {cut}");
        // And the end of the input anywhere is no error: more may come.
        decode(&bytes[..cut], &[]).unwrap();
    }
    let all: Vec<usize> = (0..bytes.len()).collect();
    assert_eq!(decode(&bytes, &all).unwrap(), frames, "byte by byte");
}

/// A zlib stream of `block`, as a client's first one.
fn deflated(block: &[u8]) -> Vec<u8> {
    let mut zlib = Compress::new(Compression::best(), true);
    zlib.set_dictionary(&DICTIONARY).unwrap();
    let mut output = Vec::with_capacity(block.len() + 1000);
    zlib.compress_vec(block, &mut output, FlushCompress::Sync).unwrap();
    output
}

fn syn_stream(block: &[u8]) -> Vec<u8> {
    let mut frame = control_header(SYN_STREAM, 0, 10 + block.len()).to_vec();
    frame.extend([0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    frame.extend(block);
    frame
}

/// A count, then names and values.
fn block(count: u32, texts: &[&[u8]]) -> Vec<u8> {
    let mut block = count.to_be_bytes().to_vec();
    for text in texts {
        block.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
        block.extend(*text);
    }
    block
}

#[test]
fn what_is_hostile_is_refused_by_its_name() {
    let check = |bytes: &[u8], expected: &str| {
        let error = decode(bytes, &[]).expect_err(expected).to_string();
        assert!(error.contains(expected), "{error:?} for {expected:?}");
    };
    let bomb = deflated(&block(1, &[b"a", &vec![b'a'; 4 << 20]]));
    assert!(bomb.len() < CONTROL_BYTES_MAX, "a bomb that fits: {}", bomb.len());
    check(&syn_stream(&bomb), "inflate to more than 65536 bytes");
    check(&syn_stream(&deflated(&block(0x00ff_ffff, &[]))), "16777215 headers");
    check(&syn_stream(&deflated(&block(1, &[]))), "cut short");
    check(&syn_stream(&deflated(&[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 1])), "cut short");
    check(&syn_stream(&deflated(&block(1, &[b"a", b"b", b"c"]))), "bytes behind");
    check(&syn_stream(&deflated(&block(2, &[b"a", b"b", b"a", b"c"]))), "\"a\"");
    check(&syn_stream(&deflated(&block(1, &[b"A", b"b"]))), "\"A\"");
    check(&syn_stream(&deflated(&block(1, &[b"", b"b"]))), "\"\"");
    check(&syn_stream(b"not zlib"), "do not inflate");
    check(&syn_stream(&[]), "cut short");
    check(&control_header(SYN_STREAM, 0, CONTROL_BYTES_MAX + 1), "at most 16384");
    check(&control_header(SYN_STREAM, 0, 9).into_iter().chain([0; 9]).collect::<Vec<_>>(), "has 9 bytes");
    check(&control_header(PING, 0, 3).into_iter().chain([0; 3]).collect::<Vec<_>>(), "has 3 bytes");
    check(&control_header(RST_STREAM, 0, 9).into_iter().chain([1; 9]).collect::<Vec<_>>(), "has 9 bytes");
    check(&control_header(SETTINGS, 0, 4).into_iter().chain([0xff; 4]).collect::<Vec<_>>(), "4294967295 settings");
    check(&control_header(SETTINGS, 0, 4).into_iter().chain([0, 0, 0, 1]).collect::<Vec<_>>(), "has 4 bytes");
    check(&data_header(0, false, 10), "stream 0");
    check(&pair(RST_STREAM, 0, 1), "stream 0");
    check(&[0x80, 0x02, 0, 1, 0, 0, 0, 0], "version 2");
}

#[test]
fn a_finished_zlib_stream_is_refused() {
    let mut zlib = Compress::new(Compression::best(), true);
    zlib.set_dictionary(&DICTIONARY).unwrap();
    let mut output = Vec::with_capacity(1000);
    zlib.compress_vec(&block(0, &[]), &mut output, FlushCompress::Finish).unwrap();
    assert_eq!(decode(&syn_stream(&output), &[]), Err(SpdyError::Inflate));
}

#[test]
fn another_dictionary_is_refused() {
    let mut zlib = Compress::new(Compression::best(), true);
    zlib.set_dictionary(b"another").unwrap();
    let mut output = Vec::with_capacity(1000);
    zlib.compress_vec(&block(0, &[]), &mut output, FlushCompress::Sync).unwrap();
    assert_eq!(decode(&syn_stream(&output), &[]), Err(SpdyError::Inflate));
}
