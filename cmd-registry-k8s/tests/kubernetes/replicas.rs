// SPDX-License-Identifier: Apache-2.0
//! Several registries on one API server.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::join_all;
use libtest_mimic::Trial;
use nsm_sdk::core::NseRegistry;
use tokio::time::{Instant, sleep_until};
use tonic::Code;

use crate::Bench;
use crate::caller::{endpoint, next, offering};
use crate::world::{NSE, World, eventually};

pub(crate) fn tests(bench: &Bench) -> Vec<Trial> {
    vec![
        bench.test(
            "c104_what_one_registered_the_other_finds_and_unregisters",
            c104_what_one_registered_the_other_finds_and_unregisters,
        ),
        bench.test(
            "c103_a_timer_of_one_does_not_delete_what_the_other_refreshed",
            c103_a_timer_of_one_does_not_delete_what_the_other_refreshed,
        ),
        bench.test(
            "c84_a_name_belongs_to_one_whichever_is_asked",
            c84_a_name_belongs_to_one_whichever_is_asked,
        ),
        bench.test(
            "many_who_refresh_one_name_at_both_all_succeed",
            many_who_refresh_one_name_at_both_all_succeed,
        ),
        bench.test(
            "a_killed_one_leaves_its_endpoints_to_the_other",
            a_killed_one_leaves_its_endpoints_to_the_other,
        ),
    ]
}

async fn c104_what_one_registered_the_other_finds_and_unregisters(world: &mut World) -> Result<()> {
    let (one, two) = (world.registry(&[]).await?, world.registry(&[]).await?);
    let (at_one, at_two) = (world.caller(&one, "nse")?, world.caller(&two, "nse")?);
    let mut watch = at_one.opens::<NseRegistry>(offering("c104"), true).await?;
    at_one.registers::<NseRegistry>(endpoint("c104", "c104")).await?;
    ensure!(!next::<NseRegistry>(&mut watch).await?.1, "it is told");
    at_two.unregisters::<NseRegistry>("c104").await?;
    ensure!(
        world.stored(NSE, "c104").await?.is_none(),
        "it is gone, whatever the second knew of it"
    );
    ensure!(next::<NseRegistry>(&mut watch).await?.1, "the first tells it");
    Ok(())
}

async fn c103_a_timer_of_one_does_not_delete_what_the_other_refreshed(world: &mut World) -> Result<()> {
    let period = [("NSM_EXPIRE_PERIOD", "4s")];
    let (one, two) = (world.registry(&period).await?, world.registry(&period).await?);
    let (at_one, at_two) = (world.caller(&one, "nse")?, world.caller(&two, "nse")?);
    at_one.registers::<NseRegistry>(endpoint("c103", "c103")).await?;
    at_two.sees("c103", &["c103"]).await?;
    let began = Instant::now();
    let mut watch = at_one.opens::<NseRegistry>(offering("c103"), true).await?;
    // The timer of the first fires after three seconds; the second is visited every one and a half.
    for round in 1..=6 {
        sleep_until(began + Duration::from_millis(1500) * round).await;
        at_two.registers::<NseRegistry>(endpoint("c103", "c103")).await?;
    }
    ensure!(
        one.program.printed().contains("it is renewed elsewhere"),
        "the timer of the first has fired"
    );
    ensure!(at_one.names("c103").await? == ["c103"], "it is there");
    while !next::<NseRegistry>(&mut watch).await?.1 {}
    ensure!(
        began.elapsed() > Duration::from_secs(10),
        "it goes when it is not refreshed any more"
    );
    Ok(())
}

async fn c84_a_name_belongs_to_one_whichever_is_asked(world: &mut World) -> Result<()> {
    let (one, two) = (world.registry(&[]).await?, world.registry(&[]).await?);
    let (owner, thief) = (world.caller(&one, "owner")?, world.caller(&two, "thief")?);
    owner.registers::<NseRegistry>(endpoint("c84", "c84")).await?;
    thief.sees("c84", &["c84"]).await?;
    let refused = thief
        .registers::<NseRegistry>(endpoint("c84", "c84"))
        .await
        .err()
        .context("is refused")?;
    ensure!(refused.code() == Code::PermissionDenied, "{refused}");
    let refused = thief
        .unregisters::<NseRegistry>("c84")
        .await
        .err()
        .context("is refused")?;
    ensure!(refused.code() == Code::PermissionDenied, "{refused}");
    owner.unregisters::<NseRegistry>("c84").await?;
    // Both at once, for a name that is free: one gets it, the other is told so, at once or when it tries again.
    for round in 0..10 {
        let name = format!("c84-{round}");
        let entry = || endpoint(&name, "c84");
        let both = tokio::join!(
            owner.registers::<NseRegistry>(entry()),
            thief.registers::<NseRegistry>(entry())
        );
        ensure!(both.0.is_ok() != both.1.is_ok(), "{both:?}");
        let (winner, loser) = if both.0.is_ok() {
            (&owner, &thief)
        } else {
            (&thief, &owner)
        };
        let refused = loser
            .registers::<NseRegistry>(entry())
            .await
            .err()
            .context("is refused")?;
        ensure!(refused.code() == Code::PermissionDenied, "{refused}");
        winner.unregisters::<NseRegistry>(&name).await?;
    }
    Ok(())
}

async fn many_who_refresh_one_name_at_both_all_succeed(world: &mut World) -> Result<()> {
    let (one, two) = (world.registry(&[]).await?, world.registry(&[]).await?);
    let callers = [world.caller(&one, "nse")?, world.caller(&two, "nse")?];
    for round in 0..10 {
        let entry = |url: usize| nsm_api::registry::NetworkServiceEndpoint {
            url: format!("tcp://10.0.{round}.{url}:5001"),
            ..endpoint("crowd", "crowd")
        };
        let calls = (0..2).map(|one| callers[one].registers::<NseRegistry>(entry(one)));
        for done in join_all(calls).await {
            done?;
        }
    }
    let same = async || {
        let url = world.stored(NSE, "crowd").await.ok()??["spec"]["url"].clone();
        let (one, two) = (
            callers[0].finds::<NseRegistry>(offering("crowd")),
            callers[1].finds::<NseRegistry>(offering("crowd")),
        );
        let (one, two) = (one.await.ok()?, two.await.ok()?);
        (one[0].url == url && two[0].url == url).then_some(())
    };
    eventually("both find what is stored", same).await?;
    callers[0].unregisters::<NseRegistry>("crowd").await?;
    Ok(())
}

async fn a_killed_one_leaves_its_endpoints_to_the_other(world: &mut World) -> Result<()> {
    let period = [("NSM_EXPIRE_PERIOD", "3s")];
    let (one, two) = (world.registry(&period).await?, world.registry(&period).await?);
    let (at_one, at_two) = (world.caller(&one, "nse")?, world.caller(&two, "nse")?);
    at_one
        .registers::<NseRegistry>(endpoint("stays", "killed"))
        .await?;
    at_one
        .registers::<NseRegistry>(endpoint("goes", "killed"))
        .await?;
    at_two.sees("killed", &["goes", "stays"]).await?;
    drop(one);
    let until = Instant::now() + Duration::from_secs(20);
    while at_two.names("killed").await? != ["stays"] {
        ensure!(Instant::now() < until, "the one that nobody refreshes stays");
        at_two
            .registers::<NseRegistry>(endpoint("stays", "killed"))
            .await?;
        sleep_until(Instant::now() + Duration::from_secs(1)).await;
    }
    let deleted = async || world.stored(NSE, "goes").await.ok()?.is_none().then_some(());
    eventually("its object is deleted", deleted).await?;
    at_two.unregisters::<NseRegistry>("stays").await?;
    Ok(())
}
