// SPDX-License-Identifier: Apache-2.0
//! Writes the definitions of the custom resources into `deployments/crds`.

use std::path::Path;

use nsm_sdk_k8s::resources::definitions;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deployments/crds");
    std::fs::create_dir_all(&folder)?;
    for (file, text) in definitions()? {
        std::fs::write(folder.join(file), text)?;
    }
    Ok(())
}
