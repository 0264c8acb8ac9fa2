"""What a newcomer starts from: commented recipes with sample rows (`imprint init`), and the recipes that come with Imprint, by name."""
