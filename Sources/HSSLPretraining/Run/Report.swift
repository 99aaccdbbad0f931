import Foundation
import HSSLData
import HSSLFormats

/// `report.html`: one page that needs no other file, no script and no network.
public struct Report: Sendable {
    /// A picture, encoded for the page.
    public struct Picture: Sendable {
        public let png: [UInt8]
        public let width: Int
        public let caption: String

        /// - Parameter rgb: [height, width, 3], 8 bits a value.
        /// - Returns: nil when the sizes do not fit together, or without the memory to encode.
        public init?(rgb: [UInt8], width: Int, height: Int, caption: String) {
            guard width >= 1, height >= 1, width <= 4096, height <= 4096, rgb.count == width * height * 3,
                let png = try? ImageEncoder.png(RGBImage(width: width, height: height, pixels: rgb), name: caption)
            else { return nil }
            self.png = png
            self.width = width
            self.caption = caption
        }
    }

    /// A held-out image and the reference images that the features find most alike, best first.
    public struct Neighborhood: Sendable {
        public let query: Picture
        public let neighbors: [Picture]

        public init(query: Picture, neighbors: [Picture]) {
            self.query = query
            self.neighbors = neighbors
        }
    }

    public var title: String
    public var recipe: Recipe
    public var metrics: [Metrics]
    public var neighborhoods: [Neighborhood]
    /// Instead of a line about model, head and objective.
    var headline: String?
    /// Parts of the page that come before the curves.
    var sections: [String] = []
    /// Further rows for the table of results, e.g. ("data", "train: 60 000 images").
    public var results: [(name: String, value: String)]

    public init(
        title: String, recipe: Recipe, metrics: [Metrics], neighborhoods: [Neighborhood] = [],
        results: [(name: String, value: String)] = []
    ) {
        self.title = title
        self.recipe = recipe
        self.metrics = metrics
        self.neighborhoods = neighborhoods
        self.results = results
    }

    public func write(to path: String) throws(FileError) {
        try AtomicFile.write(Array(html.utf8), to: path)
    }

    public var html: String {
        """
        <!doctype html>
        <html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
        <title>\(escaped(title)) · HSSL</title><style>\(Report.style)</style></head><body>
        <header><h1>\(escaped(title))</h1><p>\(escaped(subtitle))</p></header>
        \(tiles)\(sections.map { "\n" + $0 }.joined())
        \(charts)
        \(pictures)
        \(tables)
        </body></html>

        """
    }

    // MARK: parts

    private var subtitle: String {
        if let headline { return headline }
        let head =
            recipe.auxiliary.isEnabled
            ? "\(recipe.auxiliary.family) head ×\(recipe.auxiliary.depth)" : "no auxiliary head"
        return
            "\(recipe.model.architecture), \(head), \(recipe.objective.name), \(recipe.model.imageSize) px, "
            + "\(recipe.schedule.precision.rawValue)"
    }

    private func last(_ value: (Metrics) -> Double?) -> Double? { metrics.lazy.reversed().compactMap(value).first }

    private var tiles: String {
        let planned = recipe.schedule.epochs
        var tiles: [(String, String)] = []
        if let line = metrics.last { tiles.append(("steps", "\(fixed(Double(line.step), places: 0))")) }
        if let epoch = metrics.last?.epoch { tiles.append(("epoch", "\(min(epoch + 1, planned)) of \(planned)")) }
        if let best = metrics.compactMap(\.knnTop1).max(), let now = last(\.knnTop1) {
            tiles.append(("k-NN top-1", "\(fixed(now * 100, places: 2)) %"))
            if best > now { tiles.append(("best k-NN", "\(fixed(best * 100, places: 2)) %")) }
        }
        if let closed = last(\.gapClosed) {
            tiles.append(("gap to the teacher closed", "\(fixed(closed * 100, places: 1)) %"))
        }
        // One batch says little.
        let losses = metrics.compactMap(\.loss).filter(\.isFinite).suffix(50)
        if !losses.isEmpty {
            tiles.append(
                ("loss, last \(losses.count) steps", shortNumber(losses.reduce(0, +) / Double(losses.count))))
        }
        // The middle value: pauses for evaluation and checkpoints do not count.
        let rates = metrics.compactMap(\.imagesPerSecond).sorted()
        if !rates.isEmpty { tiles.append(("images/s", shortNumber(rates[rates.count / 2]))) }
        if let bytes = metrics.compactMap(\.peakRSSBytes).max() {
            tiles.append(("peak memory", "\(fixed(Double(bytes) / 0x1p20, places: 0)) MiB"))
        }
        if let skipped = metrics.last(where: { $0.skippedSteps != nil })?.skippedSteps, skipped > 0 {
            tiles.append(("skipped steps", "\(skipped)"))
        }
        return "<section class=\"tiles\">" + tiles.map { "<div><span>\($0)</span><b>\($1)</b></div>" }.joined()
            + "</section>"
    }

    private func series(_ name: String, _ color: Int, _ value: (Metrics) -> Double?) -> LineChart.Series {
        LineChart.Series(
            name: name, points: metrics.compactMap { line in value(line).map { (Double(line.step), $0) } },
            color: color)
    }

    private var charts: String {
        let knn = LineChart.Series(
            name: "top-1", points: metrics.compactMap { line in line.knnTop1.map { (Double(line.epoch + 1), $0) } },
            color: 2)
        let charts = [
            LineChart(
                title: "Loss", xLabel: "step",
                series: [series("total", 0, \.loss)]
                    + recipe.objectiveSettings.curves.enumerated().map { place, curve in
                        series(curve.label, place % 5 + 1) { $0.named[curve.key] }
                    }),
            LineChart(
                title: "k-NN top-1", xLabel: "epoch", series: [knn], unit: .percent, guides: knnGuides, dots: true),
            LineChart(
                title: "Gap to the teacher closed (k-NN)", xLabel: "epoch",
                series: [
                    LineChart.Series(
                        name: "closed",
                        points: metrics.compactMap { line in
                            line.gapClosed.map { (Double(line.epoch + 1), $0) }
                        }, color: 2)
                ], unit: .percent, fromZero: true, dots: true),
            LineChart(
                title: "Teacher entropy (nats)", xLabel: "step", series: [series("entropy", 4, \.teacherEntropy)],
                guides: [entropyGuide], fromZero: true),
            LineChart(
                title: "Feature spread (std of normalised features)", xLabel: "step",
                series: [series("feature std", 5, \.featureStd)], fromZero: true),
            LineChart(
                title: "Learning rate", xLabel: "step", series: [series("learning rate", 0, \.learningRate)],
                fromZero: true),
            LineChart(
                title: "Gradient norm", xLabel: "step", series: [series("gradient norm", 1, \.gradientNorm)],
                fromZero: true),
            LineChart(
                title: "int8 codes of gradients", xLabel: "step",
                series: [
                    series("zero", 3, \.int8GradientZeros), series("at ±127", 1, \.int8GradientSaturation),
                ], unit: .percent, fromZero: true),
            LineChart(
                title: "Teacher temperature", xLabel: "step",
                series: [series("temperature", 4, \.teacherTemperature)], fromZero: true),
            LineChart(
                title: "Throughput (images/s)", xLabel: "step", series: [series("images/s", 3, \.imagesPerSecond)],
                fromZero: true),
        ].compactMap { $0.svg() }
        return charts.isEmpty
            ? "<p>No step was measured.</p>" : "<section class=\"charts\">\(charts.joined(separator: "\n"))</section>"
    }

    /// What a distilled student lies between; off the chart they are not drawn.
    private var knnGuides: [(name: String, y: Double)] {
        guard let gap = metrics.last(where: { $0.gap != nil })?.gap else { return [] }
        return [("untrained", gap.untrained), ("teacher", gap.teacher)]
    }

    /// The largest entropy that targets can have.
    private var entropyGuide: (name: String, y: Double) {
        recipe.objective.name == Recipe.distillObjective
            ? ("uniform over anchors", log(Double(recipe.distill.anchors)))
            : ("uniform over prototypes", log(Double(recipe.head.prototypes)))
    }

    private var pictures: String {
        guard !neighborhoods.isEmpty else { return "" }
        func figure(_ picture: Picture, _ kind: String) -> String {
            let png = Data(picture.png).base64EncodedString()
            // Small pictures are enlarged with their pixels kept sharp.
            return
                "<div class=\"\(kind)\"><img class=\"\(picture.width < 64 ? "pixels" : "")\" "
                + "src=\"data:image/png;base64,\(png)\" "
                + "alt=\"\(escaped(picture.caption))\" "
                + "title=\"\(escaped(picture.caption))\"><span>\(escaped(picture.caption))</span></div>"
        }
        let rows = neighborhoods.map { row in
            "<div class=\"row\">\(figure(row.query, "query"))\(row.neighbors.map { figure($0, "near") }.joined())</div>"
        }
        return
            "<section><h2>Nearest neighbours</h2><p>Held-out image on the left; then the reference images with the "
            + "most similar features (cosine), best first.</p>"
            + "<div class=\"near-rows\">\(rows.joined(separator: "\n"))</div></section>"
    }

    private var tables: String {
        var cards: [String] = []
        if !results.isEmpty {
            let rows = results.map { "<tr><td>\(escaped($0.name))</td><td>\(escaped($0.value))</td></tr>" }.joined()
            cards.append("<table><caption>results</caption>\(rows)</table>")
        }
        for (section, keys) in recipe.fields {
            let rows = keys.map { "<tr><td>\(escaped($0.key))</td><td>\(escaped($0.value.yaml))</td></tr>" }.joined()
            cards.append("<table><caption>\(escaped(section))</caption>\(rows)</table>")
        }
        return
            "<section><h2>Results and configuration</h2><div "
            + "class=\"cards\">\(cards.joined(separator: "\n"))</div></section>"
    }

    // MARK: style

    private static let style = """
        :root{color-scheme:light dark;--page:#f6f7f9;--card:#fff;--ink:#1a1d23;--dim:#626a78;--rule:#e3e6eb;\
        --edge:#aab1bd;
        --c0:#2563eb;--c1:#d97706;--c2:#059669;--c3:#c026d3;--c4:#dc2626;--c5:#0891b2;--c6:#8a93a3}
        @media(prefers-color-scheme:dark){:root{--page:#101318;--card:#181c23;--ink:#e6e9ef;--dim:#97a0b0;\
        --rule:#2a303a;--edge:#525b6a;
        --c0:#7aa7ff;--c1:#f5b14c;--c2:#4fd1a1;--c3:#e58cf2;--c4:#ff8080;--c5:#5cd0e6}}
        *{box-sizing:border-box}
        body{margin:0 auto;max-width:1240px;padding:28px 20px 60px;background:var(--page);color:var(--ink);
        font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif;\
        font-variant-numeric:tabular-nums}
        h1{font-size:26px;line-height:1.25;margin:0}h2{font-size:18px;margin:36px 0 6px}p{margin:4px 0 12px;\
        color:var(--dim)}
        .tiles{display:flex;flex-wrap:wrap;gap:12px;margin:16px 0}
        .tiles div{background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:10px 16px;\
        min-width:118px}
        .tiles span{display:block;color:var(--dim);font-size:12px}.tiles b{font-size:20px;font-weight:600}
        .charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));gap:14px}
        figure{margin:0;background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:12px 14px 6px}
        figcaption{display:flex;flex-wrap:wrap;gap:2px 14px;align-items:baseline;margin-bottom:4px}
        .key{color:var(--dim);font-size:12.5px}.key i{display:inline-block;width:14px;height:3px;border-radius:2px;\
        margin-right:5px;vertical-align:3px;background:var(--c)}
        svg{display:block;width:100%;height:auto}
        .c6{--c:var(--c6)}.bar{fill:var(--c)}.wide{overflow-x:auto}.wide td,.wide th{text-align:right;padding:3px \
        10px 3px 0}
        .wide th{color:var(--dim);font-weight:500;font-size:12.5px}.wide td:first-child,.wide \
        th:first-child{text-align:left}
        .c0{--c:var(--c0)}.c1{--c:var(--c1)}.c2{--c:var(--c2)}.c3{--c:var(--c3)}.c4{--c:var(--c4)}.c5{--c:var(--c5)}
        .line{fill:none;stroke:var(--c);stroke-width:1.8;stroke-linejoin:round;stroke-linecap:round}.dot{fill:var(--c)}
        .hover{fill:transparent}.hover:hover{fill:var(--c);fill-opacity:.75}
        .grid{stroke:var(--rule)}.axis{stroke:var(--edge)}.guide{stroke:var(--edge);stroke-dasharray:5 4}\
        .tick{fill:var(--dim);font-size:12px}
        .near-rows{display:grid;gap:10px}
        .row{display:flex;gap:8px;overflow-x:auto;background:var(--card);border:1px solid var(--rule);\
        border-radius:10px;padding:10px}
        .row div{flex:none;width:92px;text-align:center}.row .query{margin-right:6px;padding-right:14px;width:107px;\
        border-right:1px solid var(--rule)}
        .row img{width:92px;height:92px;object-fit:contain;border-radius:6px;display:block}\
        .pixels{image-rendering:pixelated}
        .row span{font-size:12px;color:var(--dim);overflow-wrap:anywhere}
        .cards{columns:3 340px;column-gap:14px}
        table{break-inside:avoid;width:100%;margin:0 0 14px;background:var(--card);border:1px solid var(--rule);\
        border-radius:10px;border-spacing:0;padding:8px 14px 10px}
        caption{text-align:left;font-weight:600;padding:6px 2px 4px}
        td{padding:3px 0;border-top:1px solid var(--rule);font-size:13.5px;vertical-align:top}\
        td:first-child{color:var(--dim);padding-right:14px}
        tr:first-child td{border-top:0}td:last-child{text-align:right;overflow-wrap:anywhere}
        @media print{body{max-width:none}}
        """
}
