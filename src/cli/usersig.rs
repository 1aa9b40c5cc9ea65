//! `usersig`: signs or decodes a UserSig, for debugging. Never prints the key.
use std::io::Read;
use std::time::Duration;

use anyhow::{Context, anyhow};
use secrecy::ExposeSecret;

use crate::config::Settings;
use crate::tool::{Exit, Failure, say};
use convgroup_chat::usersig::{decode, sign};
use convgroup_host::clock::{moment, unix_s};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Sign a UserSig with the configured key and print it. It is a credential.
    Sign {
        /// The account; `im.identifier` if not given.
        #[arg(long)]
        identifier: Option<String>,
        /// How long it is to be valid.
        #[arg(long, default_value = "24h", value_parser = lifetime)]
        lifetime: Duration,
    },
    /// Show what a UserSig says, and check it against the configured app and key.
    Decode {
        /// The UserSig; `-` or nothing reads it from standard input, which keeps it out of the process list.
        usersig: Option<String>,
    },
}

fn lifetime(text: &str) -> Result<Duration, String> {
    let lifetime = humantime::parse_duration(text).map_err(|err| err.to_string())?;
    if lifetime < Duration::from_secs(1) {
        Err("at least 1s is needed".to_owned())
    } else {
        Ok(lifetime)
    }
}

pub(super) fn usersig(settings: &Settings, args: Args) -> Result<Exit, Failure> {
    let now_s = unix_s();
    match args.command {
        Command::Sign {
            identifier,
            lifetime,
        } => {
            let im = settings.im()?;
            let key = im
                .secret
                .load()
                .map_err(|error| Failure::new(Exit::Config, error))?;
            let identifier = identifier.as_deref().unwrap_or(&im.identifier);
            let lifetime_s = lifetime.as_secs();
            let usersig = sign(
                im.sdk_app_id,
                key.expose_secret(),
                identifier,
                now_s,
                lifetime_s,
            );
            say(&format!("{usersig}\n"))?;
            Ok(Exit::Done)
        }
        Command::Decode { usersig } => {
            let text = match usersig.as_deref() {
                Some(text) if text != "-" => text.to_owned(),
                _ => {
                    let mut text = String::new();
                    std::io::stdin()
                        .read_to_string(&mut text)
                        .context("standard input can't be read")?;
                    text
                }
            };
            show(settings, text.trim(), now_s)
        }
    }
}

fn show(settings: &Settings, text: &str, now_s: u64) -> Result<Exit, Failure> {
    let claims = decode(text)
        .map_err(|err| Failure::new(Exit::Other, anyhow!("this is no UserSig: {err}")))?;
    let at = |seconds: u64| moment(seconds).unwrap_or_else(|| seconds.to_string());
    let userbuf = claims
        .userbuf
        .as_ref()
        .map_or("", |_| "userbuf     there, and signed with the rest\n");
    let expired = now_s > claims.valid_until_s();
    let (checked, good) = match settings.im() {
        Err(_) => (
            "signature   not checked: im.* is not configured\n".to_owned(),
            true,
        ),
        Ok(im) => {
            let key = im
                .secret
                .load()
                .map_err(|error| Failure::new(Exit::Config, error))?;
            let genuine = claims.is_signed_with(key.expose_secret());
            let app = claims.sdk_app_id == im.sdk_app_id;
            let not = |good| if good { "" } else { "NOT " };
            let text = format!(
                "signature   {}made with the configured key\napp         {}the configured one\n",
                not(genuine),
                not(app)
            );
            (text, genuine && app && !expired)
        }
    };
    say(&format!(
        "version     {}\nidentifier  {}\nsdk_app_id  {}\nsigned      {}\nexpires     {}\nin time     {}\n{userbuf}{checked}",
        claims.ver,
        claims.identifier,
        claims.sdk_app_id,
        at(claims.time_s),
        at(claims.valid_until_s()),
        if expired { "no: it has expired" } else { "yes" },
    ))?;
    Ok(if good { Exit::Done } else { Exit::Other })
}
