//! `caravel image`: the image store of this node, beside its daemon.

use crate::cli::{ImageCommand, ImageStoreArgs, Output};
use caravel_images::{ImageStore, Registries};

pub async fn run(command: ImageCommand) -> anyhow::Result<()> {
    match command {
        ImageCommand::Import { store, files } => {
            let store = open(&store)?;
            for file in files {
                for image in store.import(&file).await? {
                    if image.references.is_empty() {
                        println!("{}", image.id);
                    }
                    // The same image may be known by other names already: all of them are now good.
                    for name in &image.references {
                        println!("{name}");
                    }
                }
            }
        }
        ImageCommand::List { store, output } => list(&open(&store)?, output)?,
        ImageCommand::Pull { store, reference } => {
            let image = open(&store)?
                .pull(&reference, &[])
                .await
                .map_err(|e| anyhow::anyhow!("pull {reference}: {}", e.message))?;
            println!("{}", image.id);
        }
        ImageCommand::Remove { store, reference } => {
            anyhow::ensure!(
                open(&store)?.remove(&reference)?,
                "there is no image {reference:?} here"
            );
        }
    }
    Ok(())
}

fn open(args: &ImageStoreArgs) -> anyhow::Result<ImageStore> {
    let registries = Registries::load(&args.registries)?;
    Ok(ImageStore::of_node(&args.node_data_dir, registries)?)
}

fn list(store: &ImageStore, output: Output) -> anyhow::Result<()> {
    let images = store.list()?;
    if output == Output::Json {
        let rows: Vec<_> = images
            .iter()
            .map(|i| serde_json::json!({ "id": i.id, "references": i.references, "size": i.size }))
            .collect();
        println!("{}", serde_json::to_string(&rows)?);
        return Ok(());
    }
    println!("{:<22} {:>9}  REFERENCES", "ID", "SIZE");
    for image in images {
        let id: String = image.id.chars().take(19).collect();
        #[allow(clippy::cast_precision_loss)]
        let size = image.size as f64 / 1e6;
        println!("{id:<22} {size:>6.1} MB  {}", image.references.join(", "));
    }
    Ok(())
}
