//! `podwright images`: what is in the store.

use runtime_cri_api::v1 as cri;
use serde_json::json;

use crate::cli::{Format, Images};
use crate::client::Client;
use crate::error::refused;
use crate::output;
use crate::verbs::Answer;

/// Digits of an id that people compare; as docker and crictl show.
const ID_DIGITS: usize = 13;

pub(super) async fn run(mut client: Client, arguments: &Images) -> Answer {
    let answer = client.images.list_images(cri::ListImagesRequest { filter: None }).await.map_err(refused("images"))?;
    let images = answer.into_inner().images;
    match arguments.output {
        Format::Json => {
            let list: Vec<_> = images
                .iter()
                .map(|image| {
                    json!({
                        "id": image.id,
                        "tags": image.repo_tags,
                        "digests": image.repo_digests,
                        "bytes": image.size,
                        "pinned": image.pinned,
                    })
                })
                .collect();
            output::json(&json!({ "images": list }));
        }
        Format::Table => {
            let mut rows: Vec<Vec<String>> = images.iter().flat_map(rows).collect();
            rows.sort();
            output::table(&["IMAGE", "ID", "SIZE"], &rows);
        }
    }
    Ok(0)
}

/// One row for each name; an image without one is shown by its digest.
fn rows(image: &cri::Image) -> Vec<Vec<String>> {
    let id: String = image.id.trim_start_matches("sha256:").chars().take(ID_DIGITS).collect();
    let names = if image.repo_tags.is_empty() { &image.repo_digests } else { &image.repo_tags };
    let row = |name: &str| vec![output::tame(name), id.clone(), output::size(image.size)];
    if names.is_empty() { vec![row("<none>")] } else { names.iter().map(|name| row(name)).collect() }
}
