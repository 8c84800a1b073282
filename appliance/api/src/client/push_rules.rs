//! Push rules.

use appliance_model::Error;
use appliance_model::ruma::api::client::push::{
    delete_pushrule, get_pushrule, get_pushrule_actions, get_pushrule_enabled, get_pushrules_all,
    get_pushrules_global_scope, set_pushrule, set_pushrule_actions, set_pushrule_enabled,
};
use appliance_services::personal::{Place, find_push_rule};

use crate::route::{Routes, Visit};

pub(crate) fn add(routes: &mut Routes) {
    routes.serve(all);
    routes.serve(global);
    routes.serve(one);
    routes.serve(set);
    routes.serve(delete);
    routes.serve(actions);
    routes.serve(set_actions);
    routes.serve(enabled);
    routes.serve(set_enabled);
}

async fn all(
    visit: Visit<get_pushrules_all::v3::Request>,
) -> Result<get_pushrules_all::v3::Response, Error> {
    let caller = visit.caller()?;
    let rules = visit.services.personal.push_rules(caller.user, &caller.user_id).await?;
    Ok(get_pushrules_all::v3::Response::new((*rules).clone()))
}

async fn global(
    visit: Visit<get_pushrules_global_scope::v3::Request>,
) -> Result<get_pushrules_global_scope::v3::Response, Error> {
    let caller = visit.caller()?;
    let rules = visit.services.personal.push_rules(caller.user, &caller.user_id).await?;
    Ok(get_pushrules_global_scope::v3::Response::new((*rules).clone()))
}

async fn one(visit: Visit<get_pushrule::v3::Request>) -> Result<get_pushrule::v3::Response, Error> {
    let (caller, request) = (visit.caller()?, &visit.request);
    let rules = visit.services.personal.push_rules(caller.user, &caller.user_id).await?;
    let rule = find_push_rule(&rules, &request.kind, &request.rule_id)?;
    Ok(get_pushrule::v3::Response::new(rule.to_owned().into()))
}

async fn set(visit: Visit<set_pushrule::v3::Request>) -> Result<set_pushrule::v3::Response, Error> {
    let caller = visit.caller()?;
    let set_pushrule::v3::Request { rule, before, after, .. } = visit.request.clone();
    visit.services.personal.set_push_rule(caller, rule, Place { before, after }).await?;
    Ok(set_pushrule::v3::Response::new())
}

async fn delete(
    visit: Visit<delete_pushrule::v3::Request>,
) -> Result<delete_pushrule::v3::Response, Error> {
    let (caller, request) = (visit.caller()?, &visit.request);
    let personal = &visit.services.personal;
    personal.delete_push_rule(caller, request.kind.clone(), &request.rule_id).await?;
    Ok(delete_pushrule::v3::Response::new())
}

async fn actions(
    visit: Visit<get_pushrule_actions::v3::Request>,
) -> Result<get_pushrule_actions::v3::Response, Error> {
    let (caller, request) = (visit.caller()?, &visit.request);
    let rules = visit.services.personal.push_rules(caller.user, &caller.user_id).await?;
    let rule = find_push_rule(&rules, &request.kind, &request.rule_id)?;
    Ok(get_pushrule_actions::v3::Response::new(rule.actions().to_vec()))
}

async fn set_actions(
    visit: Visit<set_pushrule_actions::v3::Request>,
) -> Result<set_pushrule_actions::v3::Response, Error> {
    let (caller, request) = (visit.caller()?, &visit.request);
    let personal = &visit.services.personal;
    let rule = (request.kind.clone(), request.rule_id.as_str());
    personal.set_push_rule_actions(caller, rule, request.actions.clone()).await?;
    Ok(set_pushrule_actions::v3::Response::new())
}

async fn enabled(
    visit: Visit<get_pushrule_enabled::v3::Request>,
) -> Result<get_pushrule_enabled::v3::Response, Error> {
    let (caller, request) = (visit.caller()?, &visit.request);
    let rules = visit.services.personal.push_rules(caller.user, &caller.user_id).await?;
    let rule = find_push_rule(&rules, &request.kind, &request.rule_id)?;
    Ok(get_pushrule_enabled::v3::Response::new(rule.enabled()))
}

async fn set_enabled(
    visit: Visit<set_pushrule_enabled::v3::Request>,
) -> Result<set_pushrule_enabled::v3::Response, Error> {
    let (caller, request) = (visit.caller()?, &visit.request);
    let rule = (request.kind.clone(), request.rule_id.as_str());
    visit.services.personal.enable_push_rule(caller, rule, request.enabled).await?;
    Ok(set_pushrule_enabled::v3::Response::new())
}
