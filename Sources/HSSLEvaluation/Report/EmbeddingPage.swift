import Foundation
import HSSLFormats

/// The HTML of an embeddings report.
struct EmbeddingPage {
    let title: String

    /// A dot or a picture on the map, in the units of the components.
    struct Point {
        let x: Double
        let y: Double
        let name: String
        let label: Int?
        /// PNG in base64.
        let picture: String?
    }

    struct Captioned {
        let picture: String?
        let name: String
        let caption: String
    }

    private static let side = 960.0
    private static let margin = 24.0
    private static let thumbnail = 22.0
    /// Twelve colours that the colour-blind can tell apart in pairs; further classes repeat them.
    private static let colors = [
        "#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bb5566", "#004488", "#ddaa33", "#117733",
        "#882255", "#44aa99",
    ]

    func document(_ body: String) -> String {
        """
        <!doctype html>
        <html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
        <title>\(Self.escaped(title)) · HSSL</title><style>\(Self.style)</style></head><body>
        <h1>\(Self.escaped(title))</h1>
        \(body)
        </body></html>

        """
    }

    func facts(_ facts: [(name: String, value: String)]) -> String {
        let rows = facts.map { "<tr><th>\(Self.escaped($0.name))</th><td>\(Self.escaped($0.value))</td></tr>" }
        return "<table class=\"facts\">\(rows.joined())</table>"
    }

    func map(_ points: [Point], classNames: [String]) -> String {
        func range(_ values: [Double]) -> (low: Double, width: Double) {
            let (low, high) = (values.min() ?? 0, values.max() ?? 0)
            return (low, max(high - low, 1e-30))
        }
        let (across, up) = (range(points.map(\.x)), range(points.map(\.y)))
        // One scale for both: distances on the map are distances in the plane.
        let scale = (Self.side - 2 * Self.margin) / max(across.width, up.width)
        let height = up.width * scale + 2 * Self.margin
        let width = across.width * scale + 2 * Self.margin
        var dots: [String] = [], pictures: [String] = []
        for point in points {
            let x = Self.margin + (point.x - across.low) * scale
            let y = height - Self.margin - (point.y - up.low) * scale
            let name = point.label.map { "\(classNames[$0]): \(point.name)" } ?? point.name
            let color = point.label.map { Self.colors[$0 % Self.colors.count] } ?? "#4477aa"
            if let picture = point.picture {
                let half = Self.thumbnail / 2
                pictures.append(
                    "<image x=\"\(Self.number(x - half))\" y=\"\(Self.number(y - half))\" width=\"22\" height=\"22\" "
                    + "href=\"data:image/png;base64,\(picture)\"><title>\(Self.escaped(name))</title></image><rect "
                    + "x=\"\(Self.number(x - half))\" y=\"\(Self.number(y - half))\" width=\"22\" height=\"22\" "
                    + "fill=\"none\" stroke=\"\(color)\"/>"
                )
            } else {
                dots.append(
                    "<circle cx=\"\(Self.number(x))\" cy=\"\(Self.number(y))\" r=\"1.5\" "
                    + "fill=\"\(color)\"><title>\(Self.escaped(name))</title></circle>"
                )
            }
        }
        let legend = classNames.enumerated().prefix(40).map { label, name in
            "<span><i style=\"background:\(Self.colors[label % Self.colors.count])\"></i>\(Self.escaped(name))</span>"
        }
        return """
            <h2>Map</h2><p>The first two principal components; one scale for both.</p>
            <p class="legend">\(legend.joined(separator: " "))</p>
            <svg viewBox="0 0 \(Self.number(width)) \(Self.number(height))" role="img">\(dots.joined())\(pictures.joined())</svg>
            """
    }

    /// - Parameter inline: rows follow one another on a line.
    func table(_ title: String, _ text: String, _ rows: [[Captioned]], inline: Bool = false, side: Int = 64) -> String {
        let lines = rows.map { row in
            let cells = row.map { cell in
                let shown =
                    cell.picture.map {
                        "<img width=\"\(side)\" height=\"\(side)\" alt=\"\" src=\"data:image/png;base64,\($0)\">"
                    } ?? "<b style=\"width:\(side)px;height:\(side)px\">?</b>"
                return
                    "<figure title=\"\(Self.escaped(cell.name))\">\(shown)<figcaption>\(Self.escaped(cell.caption))</figcaption></figure>"
            }
            return "<div>\(cells.joined())</div>"
        }
        return
            "<h2>\(Self.escaped(title))</h2><p>\(Self.escaped(text))</p><section "
            + "class=\"\(inline ? "inline" : "rows")\">\(lines.joined(separator: "\n"))</section>"
    }

    private static func number(_ value: Double) -> String { String(format: "%.1f", value) }

    static func escaped(_ text: String) -> String {
        PathBytes.readable(text).replacingOccurrences(of: "&", with: "&amp;")
            .replacingOccurrences(of: "<", with: "&lt;").replacingOccurrences(of: ">", with: "&gt;")
            .replacingOccurrences(of: "\"", with: "&quot;")
    }

    private static let style = """
        body{font:15px/1.5 system-ui,sans-serif;max-width:1000px;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}
        h1{font-size:1.3rem;overflow-wrap:anywhere}h2{font-size:1.1rem;margin-top:2rem}
        .facts th{text-align:left;font-weight:normal;color:#666;padding-right:1.5rem}
        svg{width:100%;height:auto;border:1px solid #ddd}
        .legend span{margin-right:1rem;white-space:nowrap}.legend i{display:inline-block;width:.8em;height:.8em;margin-right:.3em}
        section div{display:flex;gap:6px;margin-bottom:6px}.inline{display:flex;flex-wrap:wrap;gap:4px 24px}
        figure{margin:0;text-align:center}figcaption{font-size:.75rem;color:#666;min-height:1em}
        img{image-rendering:pixelated;display:block}figure b{display:block;background:#eee;color:#999}
        """
}
