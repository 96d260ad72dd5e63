"""The page in the browser: one image, many models. Everything below the page works without Gradio."""
