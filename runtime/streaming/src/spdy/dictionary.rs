//! The dictionary that both sides' header compression starts with (SPDY draft 3.1, section 2.6.10.1): words, each behind
//! its length, and then text without lengths.

/// Its length in bytes.
const BYTES: usize = 1423;

const WORDS: [&str; 65] = [
    "options",
    "head",
    "post",
    "put",
    "delete",
    "trace",
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "connection",
    "content-base",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-md5",
    "content-range",
    "content-type",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "retry-after",
    "server",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "method",
    "get",
    "status",
    "200 OK",
    "version",
    "HTTP/1.1",
    "url",
    "public",
    "set-cookie",
    "keep-alive",
    "origin",
];

const TEXT: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 \
    Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 Not \
    Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov \
    Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,\
    application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1\
    ,utf-,*,enq=0.";

/// The dictionary.
pub(super) static DICTIONARY: [u8; BYTES] = dictionary();

const fn dictionary() -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    let mut at = 0;
    let mut word = 0;
    while word < WORDS.len() {
        let text = WORDS[word].as_bytes();
        // A word's length, as four bytes, of which the first three are 0.
        #[expect(clippy::cast_possible_truncation, reason = "no word is longer than 255 bytes; checked when compiled")]
        let length = text.len() as u8;
        assert!(text.len() < 256);
        bytes[at + 3] = length;
        at += 4;
        at = append(&mut bytes, at, text);
        word += 1;
    }
    at = append(&mut bytes, at, TEXT.as_bytes());
    assert!(at == BYTES);
    bytes
}

const fn append(bytes: &mut [u8; BYTES], at: usize, text: &[u8]) -> usize {
    let mut index = 0;
    while index < text.len() {
        bytes[at + index] = text[index];
        index += 1;
    }
    at + text.len()
}

#[cfg(test)]
mod tests {
    use super::DICTIONARY;

    #[test]
    fn its_checksum_is_the_one_of_the_draft() {
        // Adler-32, which each zlib stream that uses the dictionary names in its header.
        let (mut low, mut high) = (1_u32, 0_u32);
        for byte in DICTIONARY {
            low = (low + u32::from(byte)) % 65_521;
            high = (high + low) % 65_521;
        }
        assert_eq!(high << 16 | low, 0xe3c6_a7c2);
    }
}
