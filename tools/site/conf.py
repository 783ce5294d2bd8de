"""How Sphinx makes the pages. They load nothing from the network: formulas become MathML."""

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

project = html_title = "CNNs and transfer learning"
extensions = ["myst_nb", "sphinx_copybutton", "sphinx_design"]
nb_execution_mode, nb_merge_streams, nb_ipywidgets_js = "off", True, {}  # widgets would load from the network
myst_enable_extensions = ["amsmath", "colon_fence", "dollarmath"]
myst_heading_anchors, suppress_warnings = 4, ["myst.header", "mystnb.mime_priority"]
html_theme, html_math_renderer = "sphinx_book_theme", "mathml"
html_static_path, html_css_files = ["static"], ["site.css"]
html_show_copyright = html_show_sphinx = html_copy_source = html_show_search_summary = False
html_sidebars = {"**": ["sbt-sidebar-nav"]}
html_theme_options = {"home_page_in_toc": True, "use_download_button": False, "show_toc_level": 2}
html_theme_options["navbar_start"] = ["navbar-logo"]


def formula(translator, node):
    """Visits a formula: MathML, or its source where that fails."""
    try:
        translator.body.append(tex2mathml(node.astext(), as_block=isinstance(node, nodes.math_block)))
    except Exception:
        translator.body.append(f"<code>{translator.encode(node.astext())}</code>")
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", (formula, None), (formula, None))
