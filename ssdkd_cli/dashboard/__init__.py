"""The live dashboard: a Textual app that draws the views of `ssdkd_cli.watching`.

app.py, views.py, screens/ and widgets/ are the app; curves.py, axes.py, plot.py, canvas.py, bars.py and glyphs.py turn
numbers into rows of characters for it.
"""
