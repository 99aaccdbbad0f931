import Glibc

/// A line chart as inline SVG. Colours come from the page's style sheet, so the chart follows its light or dark theme.
struct LineChart {
    struct Series {
        var name: String
        var points: [(x: Double, y: Double)]
        /// Which of the page's colours, `.c0` … `.c5`.
        var color: Int
    }

    enum Unit { case number, percent }

    var title: String
    var xLabel: String
    var series: [Series]
    var unit = Unit.number
    /// Dashed horizontal lines with a name, drawn when they fall near the data.
    var guides: [(name: String, y: Double)] = []
    /// Whether the axis begins at 0.
    var fromZero = false
    /// Marks each point: for few, separate measurements.
    var dots = false

    private static let width = 560.0, height = 260.0
    private static let left = 62.0, right = 16.0, top = 12.0, bottom = 40.0
    /// Vertices of a line, and places that answer to the pointer.
    private static let mostVertices = 400, mostHovers = 100

    /// A `<figure>`; nil when no series has a finite point.
    func svg() -> String? {
        let series = series.map {
            Series(name: $0.name, points: $0.points.filter { $0.x.isFinite && $0.y.isFinite }, color: $0.color)
        }
        .filter { !$0.points.isEmpty }
        let thinned = series.map { LineChart.thin($0.points, to: LineChart.mostVertices) }
        let xs = thinned.joined().map(\.x), ys = thinned.joined().map(\.y)
        guard let xLow = xs.min(), let xHigh = xs.max(), let dataLow = ys.min(), let dataHigh = ys.max() else {
            return nil
        }

        var yLow = fromZero ? min(0, dataLow) : dataLow, yHigh = dataHigh
        let near = guides.filter {
            $0.y.isFinite && $0.y <= yHigh + 0.6 * (yHigh - yLow) + 1e-12
                && $0.y >= yLow - 0.6 * (yHigh - yLow) - 1e-12
        }
        for guide in near { (yLow, yHigh) = (min(yLow, guide.y), max(yHigh, guide.y)) }
        if yHigh - yLow <= 1e-9 * max(abs(yHigh), abs(yLow), 1e-30) {
            // A constant series gets a band around it.
            let margin = yHigh == 0 ? 1 : abs(yHigh) * 0.1
            (yLow, yHigh) = (yLow - margin, yHigh + margin)
        }
        let yTicks = Ticks(covering: yLow, yHigh, about: 5, outward: true)
        let xTicks = Ticks(covering: xLow, xHigh == xLow ? xLow + 1 : xHigh, about: 6, outward: false)
        let plotWidth = LineChart.width - LineChart.left - LineChart.right,
            plotHeight = LineChart.height - LineChart.top - LineChart.bottom
        let xSpan = xHigh == xLow ? 1 : xHigh - xLow
        func px(_ x: Double) -> String { fixed(LineChart.left + (x - xLow) / xSpan * plotWidth, places: 1) }
        func py(_ y: Double) -> String {
            fixed(LineChart.top + (yTicks.high - y) / (yTicks.high - yTicks.low) * plotHeight, places: 1)
        }
        let base = LineChart.height - LineChart.bottom, edge = LineChart.width - LineChart.right

        var svg = "<figure><figcaption><b>\(escaped(title))</b>"
        if series.count > 1 {
            for one in series {
                svg += "<span class=\"key\"><i class=\"c\(one.color)\"></i>\(escaped(one.name))</span>"
            }
        }
        svg +=
            "</figcaption><svg viewBox=\"0 0 \(Int(LineChart.width)) \(Int(LineChart.height))\" role=\"img\" "
            + "aria-label=\"\(escaped(title))\">"
        for y in yTicks.values {
            svg +=
                "<line class=\"grid\" x1=\"\(fixed(LineChart.left, places: 0))\" x2=\"\(fixed(edge, places: 0))\" "
                + "y1=\"\(py(y))\" y2=\"\(py(y))\"/>"
            svg +=
                "<text class=\"tick\" text-anchor=\"end\" x=\"\(fixed(LineChart.left - 8, places: 0))\" "
                + "y=\"\(py(y))\" dy=\".33em\">\(label(y, yTicks))</text>"
        }
        svg +=
            "<line class=\"axis\" x1=\"\(fixed(LineChart.left, places: 0))\" x2=\"\(fixed(edge, places: 0))\" "
            + "y1=\"\(fixed(base, places: 0))\" y2=\"\(fixed(base, places: 0))\"/>"
        for x in xTicks.values {
            svg +=
                "<line class=\"axis\" x1=\"\(px(x))\" x2=\"\(px(x))\" y1=\"\(fixed(base, places: 0))\" "
                + "y2=\"\(fixed(base + 4, places: 0))\"/>"
            svg +=
                "<text class=\"tick\" text-anchor=\"middle\" x=\"\(px(x))\" "
                + "y=\"\(fixed(base + 17, places: 0))\">\(xTicks.label(x))</text>"
        }
        svg +=
            "<text class=\"tick\" text-anchor=\"middle\" x=\"\(fixed((LineChart.left + edge) / 2, places: 0))\" "
            + "y=\"\(fixed(LineChart.height - 6, places: 0))\">\(escaped(xLabel))</text>"
        for guide in near {
            svg +=
                "<line class=\"guide\" x1=\"\(fixed(LineChart.left, places: 0))\" x2=\"\(fixed(edge, places: 0))\" "
                + "y1=\"\(py(guide.y))\" y2=\"\(py(guide.y))\"/>"
            svg +=
                "<text class=\"tick\" text-anchor=\"end\" x=\"\(fixed(edge, places: 0))\" y=\"\(py(guide.y))\" "
                + "dy=\"-.4em\">\(escaped(guide.name))</text>"
        }
        for (one, points) in zip(series, thinned) {
            let path = points.map { "\(px($0.x)) \(py($0.y))" }.joined(separator: "L")
            // A single point has no line: its dot shows it.
            svg += points.count > 1 ? "<path class=\"line c\(one.color)\" d=\"M\(path)\"/>" : ""
            if dots || points.count == 1 {
                for point in points {
                    svg +=
                        "<circle class=\"dot c\(one.color)\" cx=\"\(px(point.x))\" cy=\"\(py(point.y))\" r=\"3.2\"/>"
                }
            }
        }
        // Above all lines, so that every place answers.
        for (one, points) in zip(series, thinned) {
            for point in LineChart.thin(points, to: LineChart.mostHovers) {
                let value = unit == .percent ? "\(fixed(point.y * 100, places: 2)) %" : shortNumber(point.y)
                svg += "<circle class=\"hover c\(one.color)\" cx=\"\(px(point.x))\" cy=\"\(py(point.y))\" r=\"6\">"
                svg +=
                    "<title>\(escaped(one.name)) \(value) at \(escaped(xLabel)) "
                    + "\(shortNumber(point.x))</title></circle>"
            }
        }
        return svg + "</svg></figure>"
    }

    private func label(_ y: Double, _ ticks: Ticks) -> String {
        unit == .percent ? fixed(y * 100, places: max(0, ticks.places - 2)) + " %" : ticks.label(y)
    }

    /// At most `limit` points, each the mean of a run of neighbours; the line still ends where the data end.
    static func thin(_ points: [(x: Double, y: Double)], to limit: Int) -> [(x: Double, y: Double)] {
        guard points.count > limit else { return points }
        var thinned: [(x: Double, y: Double)] = (0..<limit).map { i in
            let run = points[(i * points.count / limit)..<((i + 1) * points.count / limit)]
            let n = Double(run.count)
            return (run.reduce(0) { $0 + $1.x } / n, run.reduce(0) { $0 + $1.y } / n)
        }
        thinned[0].x = points[0].x
        thinned[limit - 1].x = points[points.count - 1].x
        return thinned
    }
}

/// Round axis values: multiples of 1, 2 or 5 times a power of ten.
struct Ticks {
    let values: [Double]
    /// Ends of the axis.
    let low: Double
    let high: Double
    /// Decimals that tell neighbours apart.
    let places: Int

    /// - Parameter outward: whether the ends are ticks too, around the data, or the ticks lie within it.
    init(covering a: Double, _ b: Double, about count: Int, outward: Bool) {
        let raw = (b - a) / Double(count)
        let power = pow(10, floor(log10(raw)))
        let step = ([1, 2, 5, 10].first { $0 * power >= raw * 0.999 } ?? 10) * power
        let first = outward ? floor(a / step + 1e-9) : ceil(a / step - 1e-9)
        let last = outward ? ceil(b / step - 1e-9) : floor(b / step + 1e-9)
        values = last >= first ? (0...Int(min(last - first, 100))).map { (first + Double($0)) * step } : []
        low = outward ? first * step : a
        high = outward ? last * step : b
        places = Int(max(0, min(12, -floor(log10(step) + 1e-9))))
    }

    func label(_ value: Double) -> String {
        // Tiny or huge values read better with an exponent (learning rates).
        let largest = max(abs(low), abs(high))
        return (places > 3 && largest < 0.01) || largest >= 1e7 ? shortNumber(value) : fixed(value, places: places)
    }
}

/// Decimal text with exactly `places` decimals, thousands set apart by thin spaces.
func fixed(_ value: Double, places: Int) -> String {
    let scale = pow(10, Double(places))
    let scaled = (abs(value) * scale).rounded()
    guard scaled.isFinite, scaled < 9e15 else { return "\(value)" }
    let units = Int(scaled), divisor = Int(scale)
    let whole = "\(units / divisor)", part = "\(units % divisor)"
    let sign = value < 0 && units > 0 ? "−" : ""
    // Coordinates are positive and below 1000, so SVG never sees a thin space or a typographic minus.
    let grouped =
        whole.count > 4
        ? String(
            whole.reversed().enumerated().flatMap { $0 > 0 && $0 % 3 == 0 ? ["\u{2009}", $1] : [$1] }.reversed())
        : whole
    return places == 0
        ? sign + grouped : sign + grouped + "." + String(repeating: "0", count: places - part.count) + part
}

/// About four significant digits: `0.0312`, `5.132`, `7.5e−4`, `12 000`.
func shortNumber(_ value: Double) -> String {
    guard value.isFinite else { return "–" }
    if value == 0 { return "0" }
    let exponent = Int(floor(log10(abs(value)) + 1e-12))
    func trimmed(_ text: String) -> String {
        guard text.contains(".") else { return text }
        return String(text.reversed().drop { $0 == "0" }.drop { $0 == "." }.reversed())
    }
    if exponent < -3 || exponent > 8 {
        return trimmed(fixed(value / pow(10, Double(exponent)), places: 2))
            + "e\(exponent < 0 ? "−" : "")\(abs(exponent))"
    }
    return trimmed(fixed(value, places: max(0, 3 - exponent)))
}

/// Text for HTML and its attributes.
func escaped(_ text: String) -> String {
    var result = ""
    for character in text.unicodeScalars {
        switch character {
        case "&": result += "&amp;"
        case "<": result += "&lt;"
        case ">": result += "&gt;"
        case "\"": result += "&quot;"
        default: result.unicodeScalars.append(character)
        }
    }
    return result
}
