"""The script that makes charts interactive, without a network."""

from __future__ import annotations

from functools import cache

import vl_convert
from fedbench.leaderboard.charts.chart import VEGA_LITE


@cache
def javascript() -> str:
    """Return Vega, Vega-Lite and vega-embed as one script, from vl-convert, with their licences in front.

    It defines ``vegaEmbed`` on the window, which brings the others, and asks for nothing from elsewhere. Its bytes
    depend on the version of vl-convert alone. About 0.9 MB, 0.3 MB compressed; no ``</script`` stands in it, so it may
    stand in a page. Where a page forbids ``unsafe-eval``, ``vegaEmbed(…, {ast: true})`` does without it.
    """
    parts = (
        f"Vega {vl_convert.get_vega_version()}, Vega-Lite {VEGA_LITE}, vega-embed {vl_convert.get_vega_embed_version()}"
    )
    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=VEGA_LITE)
    return f"/*!\n{parts}\n\n{LICENCES}*/\n{bundle.rstrip()}\n"


# The bundle comes without comments, and these licences ask that they go with every copy.
LICENCES = """\
This file holds, minified:

BSD-3-Clause, Copyright (c) 2015-2025 University of Washington Interactive Data Lab and others:
  vega and its packages (vega-canvas ... vega-wordcloud), vega-lite, vega-embed, vega-interpreter,
  vega-schema-url-parser, vega-themes, vega-tooltip
ISC, Copyright (c) 2010-2023 Mike Bostock:
  d3-array, d3-color, d3-delaunay, d3-dispatch, d3-dsv, d3-force, d3-format, d3-geo, d3-geo-projection,
  d3-hierarchy, d3-interpolate, d3-path, d3-quadtree, d3-scale, d3-scale-chromatic, d3-shape, d3-time,
  d3-time-format, d3-timer, internmap, topojson-client
ISC, Copyright (c) 2017 Mapbox: delaunator
MIT, Copyright (c) 2011-2015 Paul Vorbach and contributors: clone
MIT, Copyright (c) 2017 Evgeny Poberezkin: fast-deep-equal, fast-json-stable-stringify (also 2013 James Halliday)
MIT, Copyright (c) 2014-2022 Simon Lydell: json-stringify-pretty-compact
MIT, Copyright jQuery Foundation and other contributors: lodash.debounce
Unlicense (public domain): robust-predicates
Apache-2.0, colour schemes in d3-scale-chromatic, Copyright 2002 Cynthia Brewer, Mark Harrower and The Pennsylvania
  State University

BSD-3-Clause

Redistribution and use in source and binary forms, with or without modification, are permitted provided that the
following conditions are met:
1. Redistributions of source code must retain the above copyright notice, this list of conditions and the following
   disclaimer.
2. Redistributions in binary form must reproduce the above copyright notice, this list of conditions and the following
   disclaimer in the documentation and/or other materials provided with the distribution.
3. Neither the name of the copyright holder nor the names of its contributors may be used to endorse or promote
   products derived from this software without specific prior written permission.
THIS SOFTWARE IS PROVIDED BY THE COPYRIGHT HOLDERS AND CONTRIBUTORS "AS IS" AND ANY EXPRESS OR IMPLIED WARRANTIES,
INCLUDING, BUT NOT LIMITED TO, THE IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS FOR A PARTICULAR PURPOSE ARE
DISCLAIMED. IN NO EVENT SHALL THE COPYRIGHT HOLDER OR CONTRIBUTORS BE LIABLE FOR ANY DIRECT, INDIRECT, INCIDENTAL,
SPECIAL, EXEMPLARY, OR CONSEQUENTIAL DAMAGES (INCLUDING, BUT NOT LIMITED TO, PROCUREMENT OF SUBSTITUTE GOODS OR
SERVICES; LOSS OF USE, DATA, OR PROFITS; OR BUSINESS INTERRUPTION) HOWEVER CAUSED AND ON ANY THEORY OF LIABILITY,
WHETHER IN CONTRACT, STRICT LIABILITY, OR TORT (INCLUDING NEGLIGENCE OR OTHERWISE) ARISING IN ANY WAY OUT OF THE USE OF
THIS SOFTWARE, EVEN IF ADVISED OF THE POSSIBILITY OF SUCH DAMAGE.

ISC

Permission to use, copy, modify, and/or distribute this software for any purpose with or without fee is hereby granted,
provided that the above copyright notice and this permission notice appear in all copies.
THE SOFTWARE IS PROVIDED "AS IS" AND THE AUTHOR DISCLAIMS ALL WARRANTIES WITH REGARD TO THIS SOFTWARE INCLUDING ALL
IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS. IN NO EVENT SHALL THE AUTHOR BE LIABLE FOR ANY SPECIAL, DIRECT,
INDIRECT, OR CONSEQUENTIAL DAMAGES OR ANY DAMAGES WHATSOEVER RESULTING FROM LOSS OF USE, DATA OR PROFITS, WHETHER IN AN
ACTION OF CONTRACT, NEGLIGENCE OR OTHER TORTIOUS ACTION, ARISING OUT OF OR IN CONNECTION WITH THE USE OR PERFORMANCE OF
THIS SOFTWARE.

MIT

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions:
The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.
THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""
