use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// A frame as a client sends it.
pub(crate) fn frame(fin: bool, opcode: u8, mask: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let short = header(opcode, payload.len());
    let mut bytes = short.bytes().to_vec();
    if !fin {
        bytes[0] &= !FIN;
    }
    bytes[1] |= MASKED;
    bytes.extend(mask);
    let start = bytes.len();
    bytes.extend(payload);
    unmask(&mut bytes[start..], mask);
    bytes
}

/// What a client's bytes say, given in pieces that end at `cuts`: whole messages, and control frames by name.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Message(Vec<u8>),
    Ping(Vec<u8>),
    Pong,
    Close,
}

fn decode(input: &[u8], cuts: &[usize]) -> Result<Vec<Said>, WebSocketError> {
    let mut decoder = Decoder::new(Kind::Binary);
    let (mut said, mut message, mut buffer, mut from) = (Vec::new(), None::<Vec<u8>>, Vec::new(), 0);
    for to in cuts.iter().copied().chain([input.len()]) {
        buffer.extend_from_slice(&input[from..to]);
        from = to;
        let mut at = 0;
        loop {
            let step = decoder.decode(&mut buffer[at..])?;
            assert!(step.consumed <= buffer.len() - at);
            let Some(event) = step.event else {
                assert_eq!(step.consumed, 0);
                break;
            };
            assert!(step.consumed > 0, "progress");
            let slice = |range: Range<usize>| buffer[at + range.start..at + range.end].to_vec();
            match event {
                Event::Piece { bytes, first, last } => {
                    assert_eq!(first, message.is_none());
                    message.get_or_insert_default().extend(slice(bytes));
                    if last {
                        said.extend(message.take().map(Said::Message));
                    }
                }
                Event::Ping { payload } => said.push(Said::Ping(slice(payload))),
                Event::Pong => said.push(Said::Pong),
                Event::Close => said.push(Said::Close),
            }
            at += step.consumed;
        }
        buffer.drain(..at);
    }
    assert!(buffer.len() < 14 + CONTROL_BYTES_MAX, "no more is left than one control frame");
    Ok(said)
}

proptest! {
    #[test]
    fn messages_arrive_as_they_were_sent(
        messages in vec(vec(vec(any::<u8>(), 0..300), 1..4), 1..6),
        mask in any::<[u8; 4]>(),
        cuts in vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let mut bytes = Vec::new();
        let mut expected = Vec::new();
        for parts in &messages {
            for (index, part) in parts.iter().enumerate() {
                let opcode = if index == 0 { BINARY } else { CONTINUATION };
                bytes.extend(frame(index + 1 == parts.len(), opcode, mask, part));
                // Control frames may stand between the frames of a message.
                bytes.extend(frame(true, PING, mask, b"p"));
                expected.push(Said::Ping(b"p".to_vec()));
            }
            expected.insert(expected.len() - 1, Said::Message(parts.concat()));
        }
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
        cuts.sort_unstable();
        prop_assert_eq!(decode(&bytes, &cuts), Ok(expected));
    }

    #[test]
    fn any_bytes_are_messages_or_an_error(bytes in vec(any::<u8>(), 0..2000), cut in any::<prop::sample::Index>()) {
        let cut = cut.index(bytes.len().max(1));
        prop_assert_eq!(decode(&bytes, &[cut]).ok(), decode(&bytes, &[]).ok());
    }

    #[test]
    fn damaged_frames_are_messages_or_an_error(
        payloads in vec(vec(any::<u8>(), 0..200), 1..5),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
    ) {
        let mut bytes: Vec<u8> = payloads.iter().flat_map(|payload| frame(true, BINARY, [1, 2, 3, 4], payload)).collect();
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let _ = decode(&bytes, &[]);
    }
}

#[test]
fn a_cut_at_every_byte_changes_nothing() {
    let mask = [9, 8, 7, 6];
    let long = vec![b'x'; 70_000];
    let bytes = [
        frame(false, BINARY, mask, b"hello "),
        frame(true, PING, mask, b"there?"),
        frame(true, CONTINUATION, mask, b"world"),
        frame(true, PONG, mask, b""),
        frame(true, BINARY, mask, &[]),
        frame(true, CLOSE, mask, &1000_u16.to_be_bytes()),
        frame(true, BINARY, mask, &long[..200]),
    ]
    .concat();
    let expected = decode(&bytes, &[]).unwrap();
    assert_eq!(expected[0], Said::Ping(b"there?".to_vec()));
    assert_eq!(expected[1], Said::Message(b"hello world".to_vec()));
    assert_eq!(expected[3..5], [Said::Message(Vec::new()), Said::Close]);
    for cut in 0..bytes.len() {
        assert_eq!(decode(&bytes, &[cut]).unwrap(), expected, "cut at {cut}");
    }
    assert_eq!(decode(&frame(true, BINARY, mask, &long), &[66_000]).unwrap(), [Said::Message(long)]);
}

#[test]
fn what_breaks_the_protocol_is_refused_by_its_name() {
    let mask = [0; 4];
    let check = |bytes: &[u8], expected: WebSocketError| assert_eq!(decode(bytes, &[]), Err(expected));
    check(&[0xc2, 0x80, 0, 0, 0, 0], WebSocketError::Reserved { bits: 0x40 });
    check(&[0x83, 0x80, 0, 0, 0, 0], WebSocketError::Opcode { opcode: 3 });
    check(&[0x82, 0x01, 7], WebSocketError::Unmasked);
    check(&frame(true, CONTINUATION, mask, b"x"), WebSocketError::Order);
    check(&[frame(false, BINARY, mask, b"x"), frame(true, BINARY, mask, b"x")].concat(), WebSocketError::Order);
    check(&frame(false, PING, mask, b""), WebSocketError::Control);
    check(&frame(true, PING, mask, &[0; 126]), WebSocketError::Control);
    check(&frame(true, TEXT, mask, b"x"), WebSocketError::Kind { got: Kind::Text, expected: Kind::Binary });
    check(&[0x82, 0xfe, 0, 125, 0, 0, 0, 0], WebSocketError::Length);
    check(&[0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], WebSocketError::Length);
}

#[test]
fn headers_are_as_short_as_they_can_be() {
    let check = |length: usize, expected: &[u8]| assert_eq!(message_header(Kind::Binary, length).bytes(), expected);
    check(0, &[0x82, 0]);
    check(125, &[0x82, 125]);
    check(126, &[0x82, 126, 0, 126]);
    check(65_535, &[0x82, 126, 0xff, 0xff]);
    check(65_536, &[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
    assert_eq!(close(1000), [0x88, 2, 0x03, 0xe8]);
    assert_eq!(pong(b"ab"), [0x8a, 2, b'a', b'b']);
}

#[test]
fn the_key_is_answered_as_in_the_rfc() {
    assert_eq!(accept(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
}
