//! Giving an order: to the server that runs, or in the house itself if none does.

use std::process::ExitCode;
use std::sync::Arc;

use serde_json::Value;

use super::{Common, exit, out};
use crate::admin::caller::{Called, call};
use crate::admin::{Admin, Order, Reason, Refusal};
use crate::lifecycle::Lifecycle;
use crate::serve::runtime;
use crate::settings::Settings;
use crate::settings::load::{Loaded, Sources, load};
use crate::still_store::StillStore;
use crate::wiring::House;

/// Gives `order` and prints what came of it: `in_words`, or JSON if asked for. A password that was
/// made for the order is printed with it.
pub fn give(
    common: Common,
    order: Order,
    made_password: Option<String>,
    in_words: impl FnOnce(&Value) -> String,
) -> ExitCode {
    give_any(common, (order, made_password), in_words, |_| true)
}

/// The same where what came of it can be bad news: then it is printed, and the exit code says so.
pub fn give_judged(
    common: Common,
    order: Order,
    in_words: impl FnOnce(&Value) -> String,
    is_good: impl FnOnce(&Value) -> bool,
) -> ExitCode {
    give_any(common, (order, None), in_words, is_good)
}

fn give_any(
    common: Common,
    (order, made_password): (Order, Option<String>),
    in_words: impl FnOnce(&Value) -> String,
    is_good: impl FnOnce(&Value) -> bool,
) -> ExitCode {
    let is_json = common.json;
    let loaded = match load(&Sources::of_this_process(common.config), false) {
        Ok(loaded) => loaded,
        Err(problems) => {
            super::print_problems(&problems);
            return exit::BAD_SETTINGS.into();
        }
    };
    let result = runtime().map_err(|error| (exit::FAILED, error));
    let result = result.and_then(|runtime| runtime.block_on(carry_out(&loaded, order)));
    let code = match &result {
        Ok(value) if !is_good(value) => exit::FAILED.into(),
        _ => ExitCode::SUCCESS,
    };
    match result {
        Ok(mut value) if is_json => {
            if let Some(password) = made_password {
                value["password"] = password.into();
            }
            out::json(&value);
        }
        Ok(value) => {
            out::line(&in_words(&value));
            if let Some(password) = made_password {
                out::line(&format!("Password: {password}"));
            }
        }
        Err((code, message)) => {
            out::trouble(&message);
            return code.into();
        }
    }
    code
}

async fn carry_out(loaded: &Loaded, order: Order) -> Result<Value, (u8, String)> {
    let answer = match call(&loaded.settings.admin.socket, &order).await {
        Called::Answered(answer) => answer,
        Called::Failed(reason) => return Err((exit::NO_SERVER, reason)),
        Called::NobodyThere if matches!(order, Order::Status) => {
            return Err((exit::NO_SERVER, "no server runs with these settings".into()));
        }
        Called::NobodyThere => carry_out_here(loaded, order).await,
    };
    answer.map_err(|Refusal { reason, message }| match reason {
        Reason::Refused | Reason::Failed => (exit::FAILED, message),
        Reason::Damaged => (exit::DAMAGED, message),
    })
}

async fn carry_out_here(loaded: &Loaded, order: Order) -> Result<Value, Refusal> {
    let settings = &loaded.settings;
    let still = || StillStore::take(settings);
    match order {
        Order::CheckStore => still()?.check().await,
        Order::StoreStats => still()?.stats().await,
        Order::ExportStore { to } => still()?.export(&to).await,
        Order::ImportStore { from } => still()?.import(&from).await,
        Order::RotateKey { new_key_file } => {
            let origin = loaded.origin("store.master_key_file");
            still()?.rotate_key(&origin, new_key_file.as_deref()).await
        }
        order => in_the_house(settings, order).await,
    }
}

/// No server runs, so this process is the server for as long as the order takes.
async fn in_the_house(settings: &Settings, order: Order) -> Result<Value, Refusal> {
    let failed = |message: String| Refusal { reason: Reason::Failed, message };
    let lifecycle = Lifecycle::new().map_err(|error| failed(error.to_string()))?;
    let house = House::open(settings, None, &lifecycle.tasks()).await.map_err(failed)?;
    let house = Arc::new(house);
    let by = format!("uid {} (no server running)", rustix::process::getuid().as_raw());
    let answer = Admin::new(house.clone()).carry_out(order, &by).await;
    lifecycle.finish().await;
    house.close().await.map_err(failed)?;
    answer
}
