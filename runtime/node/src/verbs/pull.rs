//! `podwright pull`: an image, with progress.

use std::io::BufRead;
use std::path::PathBuf;

use runtime_control_api::v1::{Credentials, PullRequest};

use crate::cli::Pull;
use crate::client::Client;
use crate::error::{Error, refused};
use crate::output;
use crate::progress::Screen;
use crate::verbs::Answer;

pub(super) async fn run(mut client: Client, arguments: Pull) -> Answer {
    let credentials = arguments.username.map(credentials).transpose()?;
    let request = PullRequest { image: arguments.image, if_not_present: false, credentials };
    let digest = pull(&mut client, request, &Screen::new()).await?;
    output::line(&digest);
    Ok(0)
}

/// Fetches an image and shows how far it is. Returns its name with the digest, or its id.
pub(super) async fn pull(client: &mut Client, request: PullRequest, screen: &Screen) -> Result<String, Error> {
    let image = request.image.clone();
    let what = || refused(format!("pull {image}"));
    let mut steps = client.control.pull(request).await.map_err(what())?.into_inner();
    let mut view = screen.pull(&image);
    while let Some(progress) = steps.message().await.map_err(what())? {
        if let Some(step) = progress.step {
            view.show(step);
        }
    }
    Ok(view.finish())
}

/// The password never stands on the command line, where every user of the machine could read it.
fn credentials(username: String) -> Result<Credentials, Error> {
    let mut password = String::new();
    let failed = |source| Error::Read { path: PathBuf::from("standard input"), source };
    std::io::stdin().lock().read_line(&mut password).map_err(failed)?;
    Ok(Credentials { username, password: password.trim_end_matches(['\r', '\n']).to_owned() })
}
