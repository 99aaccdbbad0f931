import HSSLFormats

/// `report.html` of a search: the candidates, then the curves of the run.
struct SearchReport {
    let recipe: Recipe
    let datasetName: String
    let options: SearchOptions
    let metrics: [Metrics]
    /// Nil while the search is not done.
    let result: SearchResult?

    func write(to path: String) throws(FileError) {
        var report = Report(
            title: "\(recipe.model.architecture) on \(datasetName): search", recipe: recipe, metrics: metrics)
        let (model, coupling) = (recipe.model, options.coupled ? ", the base learns from them" : "")
        report.headline =
            "\(model.architecture), \(recipe.objective.name), \(options.heads.count) candidates\(coupling), "
            + "\(model.imageSize) px, \(recipe.schedule.precision.rawValue)"
        report.sections = [result.map { chart($0) + table($0) } ?? "", curves].filter { !$0.isEmpty }
        try report.write(to: path)
    }

    private func table(_ result: SearchResult) -> String {
        let rows = result.cells.enumerated().map { place, cells in
            let cell = place == 0 ? "th" : "td"
            return "<tr>\(cells.map { "<\(cell)>\(escaped($0))</\(cell)>" }.joined())</tr>"
        }.joined()
        return
            "<section><h2>Heads</h2><p>Measured on \(result.images) images that nobody learnt from. The gap ranks: "
            + "how much worse the base predicts what the head says of another view than the head itself does. A head "
            + "whose targets or features keep less than a quarter of the base’s variety has collapsed and may not "
            + "win; within one standard error of the best the cheaper head wins.</p><div "
            + "class=\"wide\"><table>\(rows)</table></div></section>"
    }

    /// Bars with one standard error to either side.
    private func chart(_ result: SearchResult) -> String {
        let rows = result.rows.filter { $0.gap.isFinite && $0.gapError.isFinite }
        guard let largest = rows.map({ $0.gap + $0.gapError }).max() else { return "" }
        let lowest = min(0, rows.map { $0.gap - $0.gapError }.min() ?? 0)
        let ticks = Ticks(covering: lowest, largest > lowest ? largest : lowest + 1, about: 5, outward: true)
        let (left, width, step) = (90.0, 440.0, 30.0), height = step * Double(rows.count)
        func x(_ value: Double) -> String {
            fixed(left + (value - ticks.low) / (ticks.high - ticks.low) * width, places: 1)
        }
        func line(_ name: String, _ x1: String, _ x2: String, _ y1: Double, _ y2: Double) -> String {
            "<line class=\"\(name)\" x1=\"\(x1)\" x2=\"\(x2)\" y1=\"\(fixed(y1, places: 1))\" "
            + "y2=\"\(fixed(y2, places: 1))\"/>"
        }
        var svg = "<figure><figcaption><b>Gap of the heads (nats)</b></figcaption>"
            + "<svg viewBox=\"0 0 560 \(Int(height) + 34)\" role=\"img\" aria-label=\"Gap of the heads\">"
        for tick in ticks.values {
            svg += line("grid", x(tick), x(tick), 4, height + 6)
            svg +=
                "<text class=\"tick\" text-anchor=\"middle\" x=\"\(x(tick))\" "
                + "y=\"\(fixed(height + 22, places: 1))\">\(ticks.label(tick))</text>"
        }
        let winner = result.winner?.head
        for (place, row) in rows.enumerated() {
            let middle = 8 + step * (Double(place) + 0.5)
            let color = result.objection(to: row) != nil ? 6 : row.head == winner ? 2 : 0
            let (from, to) = (min(0, row.gap), max(0, row.gap))
            let length = fixed((to - from) / (ticks.high - ticks.low) * width, places: 1)
            svg +=
                "<rect class=\"bar c\(color)\" x=\"\(x(from))\" y=\"\(fixed(middle - 9, places: 1))\" "
                + "width=\"\(length)\" height=\"18\">"
            svg += "<title>\(escaped(row.head)) \(shortNumber(row.gap)) ± \(shortNumber(row.gapError))</title></rect>"
            svg += line("axis", x(row.gap - row.gapError), x(row.gap + row.gapError), middle, middle)
            svg +=
                "<text class=\"tick\" text-anchor=\"end\" x=\"\(fixed(left - 8, places: 1))\" "
                + "y=\"\(fixed(middle, places: 1))\" dy=\".33em\">\(escaped(row.head))</text>"
        }
        return svg + line("axis", x(0), x(0), 4, height + 6) + "</svg></figure>"
    }

    private var curves: String {
        func chart(_ title: String, _ prefix: String) -> String {
            let series = (options.heads + [CandidateSet.referenceName]).enumerated().map { place, head in
                let points = metrics.compactMap { line in
                    line.named[prefix + head].map { (Double(line.step), $0) }
                }
                return LineChart.Series(name: head, points: points, color: place % 7)
            }
            return LineChart(title: title, xLabel: "step", series: series).svg() ?? ""
        }
        let charts = chart("Loss of the heads", "head_") + chart("Loss of their probes on the base", "probe_")
        return charts.isEmpty ? "" : "<section class=\"charts\">\(charts)</section>"
    }
}
