use crate::{
    Call, FRAME_BYTES_MAX, Failure, FailureKind, Frame, FrameError, Request, decode, encode, frame_length,
    supervisor_arguments,
};

#[test]
fn a_frame_survives_the_way_and_a_piece_of_it_waits() {
    let call = Call { id: 7, request: Request::StartContainer { container: "c".into() } };
    let bytes = encode(&call).expect("encodes");
    for cut in 0..bytes.len() {
        assert!(decode::<Call>(&bytes[..cut]).expect("a piece is no error").is_none(), "cut at {cut}");
    }
    assert_eq!(decode::<Call>(&bytes).expect("decodes"), Some((call, bytes.len())));
}

#[test]
fn a_verb_of_tomorrow_is_unknown_and_a_new_field_is_ignored() {
    let body = br#"{"id":1,"request":{"verb":"teleport","where":"mars"},"new":true}"#;
    let mut bytes = u32::try_from(body.len()).expect("short").to_le_bytes().to_vec();
    bytes.extend_from_slice(body);
    let (call, _) = decode::<Call>(&bytes).expect("decodes").expect("complete");
    assert_eq!(call.request, Request::Unknown);
}

#[test]
fn a_hostile_length_is_refused_before_anything_is_allocated() {
    let bytes = u32::MAX.to_le_bytes();
    assert!(matches!(decode::<Call>(&bytes), Err(FrameError::TooLong { bytes }) if bytes > FRAME_BYTES_MAX));
}

#[test]
fn an_answer_carries_its_failure() {
    let frame = Frame::Answer { id: 3, result: Err(Failure { kind: FailureKind::Refused, message: "no".into() }) };
    let bytes = encode(&frame).expect("encodes");
    assert_eq!(decode::<Frame>(&bytes).expect("decodes").expect("complete").0, frame);
}

#[test]
fn the_length_of_a_frame_is_known_before_the_frame_is_there() {
    let bytes = encode(&Call { id: 7, request: Request::Sandbox }).expect("encodes");
    assert_eq!(frame_length(&bytes[..3]).expect("no error"), None);
    assert_eq!(frame_length(&bytes[..4]).expect("known"), Some(bytes.len()));
    assert!(frame_length(&u32::MAX.to_le_bytes()).is_err());
}

#[test]
fn a_supervisor_is_named_by_the_first_digits() {
    assert_eq!(supervisor_arguments(&"0123456789abcdef".repeat(4), "/p/s"), ["0123456789ab", "/p/s"]);
}
