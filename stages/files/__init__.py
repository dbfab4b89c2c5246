"""Files that are written whole or not at all, and by what one knows that they are as they were written."""
