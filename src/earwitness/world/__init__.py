"""The embedded world: scenes, their sound, their picture, and questions about them. numpy only."""
