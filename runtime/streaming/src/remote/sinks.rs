//! Where a client's input goes.

use tokio::io::{AsyncWriteExt as _, DuplexStream};
use tokio::sync::watch;

use crate::Size;

/// Longest text of a terminal's size, in bytes; client-go's have about 25.
const SIZE_BYTES_MAX: usize = 256;

/// Standard input and sizes.
pub(super) struct Sinks {
    stdin: Option<DuplexStream>,
    sizes: watch::Sender<Option<Size>>,
    /// A size whose end has not come.
    partial: Vec<u8>,
}

impl Sinks {
    pub(super) fn new(stdin: DuplexStream, sizes: watch::Sender<Option<Size>>) -> Sinks {
        Sinks { stdin: Some(stdin), sizes, partial: Vec::new() }
    }

    /// Bytes for the process; waits while it doesn't take what it has. Nothing when it takes no more.
    pub(super) async fn stdin(&mut self, bytes: &[u8]) {
        if let Some(stdin) = &mut self.stdin
            && stdin.write_all(bytes).await.is_err()
        {
            self.stdin = None;
        }
    }

    /// The client sends no more.
    pub(super) fn end_stdin(&mut self) {
        self.stdin = None;
    }

    /// Bytes of sizes, each `{"Width":80,"Height":24}`. What isn't one is passed over.
    pub(super) fn resize(&mut self, bytes: &[u8]) {
        self.partial.extend_from_slice(bytes);
        let mut sizes = serde_json::Deserializer::from_slice(&self.partial).into_iter::<Size>();
        let last = sizes.by_ref().map_while(Result::ok).last();
        let parsed = sizes.byte_offset();
        if let Some(size) = last {
            self.sizes.send_replace(Some(size));
        }
        let incomplete = serde_json::from_slice::<Size>(&self.partial[parsed..]).is_err_and(|error| error.is_eof());
        self.partial.drain(..parsed);
        if !incomplete || self.partial.len() > SIZE_BYTES_MAX {
            self.partial.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;
    use tokio::sync::watch;

    use super::Sinks;

    #[test]
    fn sizes_are_read_however_they_are_cut() {
        let check = |pieces: &[&str], expected: Option<(u16, u16)>| {
            let (sender, receiver) = watch::channel(None);
            let mut sinks = Sinks::new(duplex(1).0, sender);
            pieces.iter().for_each(|piece| sinks.resize(piece.as_bytes()));
            let size = receiver.borrow().map(|size: crate::Size| (size.width, size.height));
            assert_eq!(size, expected, "{pieces:?}");
            assert!(sinks.partial.len() <= 256);
        };
        let one = "{\"Width\":80,\"Height\":24}\n";
        check(&[one], Some((80, 24)));
        check(&[one, "{\"Width\":1,\"Height\":2}\n"], Some((1, 2)));
        check(&[&format!("{one}{{\"Width\":3,\"Height\":4}}")], Some((3, 4)));
        for cut in 1..one.len() {
            check(&[&one[..cut], &one[cut..]], Some((80, 24)));
        }
        check(&["{}"], None);
        check(&["nonsense", one], Some((80, 24)));
        check(&["{\"Width\":70000,\"Height\":1}"], None);
        check(&["{\"Width\":", &" ".repeat(10_000), "7,\"Height\":1}"], None);
        check(&["{\"Width\":-1,\"Height\":1}", one], Some((80, 24)));
    }
}
