//! `podwright rmi`: images that are removed with all their names.

use runtime_cri_api::v1 as cri;

use crate::cli::Rmi;
use crate::client::Client;
use crate::error::{Error, chain, refused};
use crate::output;
use crate::verbs::Answer;

pub(super) async fn run(mut client: Client, arguments: &Rmi) -> Answer {
    let mut failures = Vec::new();
    for image in &arguments.images {
        match remove(&mut client, image).await {
            Ok(true) => output::line(&format!("{image} is removed")),
            Ok(false) => failures.push(format!("there is no image {image}; `podwright images` lists them")),
            Err(error) => failures.push(chain(&error)),
        }
    }
    if failures.is_empty() { Ok(0) } else { Err(Error::Several(failures)) }
}

/// CRI's removal is content with an image that isn't there; a person who mistyped a name is not.
async fn remove(client: &mut Client, name: &str) -> Result<bool, Error> {
    let spec = || Some(cri::ImageSpec { image: name.to_owned(), ..Default::default() });
    let what = || refused(format!("remove {name}"));
    let found = client.images.image_status(cri::ImageStatusRequest { image: spec(), verbose: false }).await;
    if found.map_err(what())?.into_inner().image.is_none() {
        return Ok(false);
    }
    client.images.remove_image(cri::RemoveImageRequest { image: spec() }).await.map_err(what())?;
    Ok(true)
}
