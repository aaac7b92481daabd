//! Lists as streams: the same items in messages that stay far below every limit.

use tonic::{Response, Status, codegen::BoxStream};

/// Items in one message. A container's entry with many labels has a few kB; kubelets take 16 MiB.
const ITEMS_PER_MESSAGE: usize = 256;

/// Sends `items`, at least one a message, each once, then the end.
pub(crate) fn chunks<I, M>(items: Vec<I>, message: fn(Vec<I>) -> M) -> Response<BoxStream<M>>
where
    I: Send + 'static,
    M: Send + 'static,
{
    chunks_of(ITEMS_PER_MESSAGE, items, message)
}

/// The same with `per_message` items in one.
pub(crate) fn chunks_of<I, M>(per_message: usize, items: Vec<I>, message: fn(Vec<I>) -> M) -> Response<BoxStream<M>>
where
    I: Send + 'static,
    M: Send + 'static,
{
    let mut messages = Vec::with_capacity(items.len().div_ceil(per_message));
    let mut items = items.into_iter().peekable();
    while items.peek().is_some() {
        messages.push(Ok::<M, Status>(message(items.by_ref().take(per_message).collect())));
    }
    Response::new(Box::pin(tokio_stream::iter(messages)))
}

#[cfg(test)]
mod tests {
    use tokio_stream::StreamExt as _;

    use super::{ITEMS_PER_MESSAGE, chunks};

    #[tokio::test]
    async fn each_once_and_none_empty() {
        for count in [0, 1, ITEMS_PER_MESSAGE, ITEMS_PER_MESSAGE + 1, 3 * ITEMS_PER_MESSAGE] {
            let messages: Vec<_> = chunks((0..count).collect(), |items: Vec<usize>| items).into_inner().collect().await;
            let messages: Vec<Vec<usize>> = messages.into_iter().map(|message| message.expect("no error")).collect();
            assert!(messages.iter().all(|message| !message.is_empty()));
            assert_eq!(messages.concat(), (0..count).collect::<Vec<_>>());
        }
    }
}
