"""cifake: tell real photographs from AI-generated ones, and keep learning as generators change."""
