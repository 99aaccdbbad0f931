#if canImport(Glibc)
import Glibc
#endif

/// Progress on standard error: a bar redrawn in place on a terminal, otherwise a plain line now and then.
///
///     pretrain ━━━━━━━━────────  52% 312/600 steps  41.2/s  ETA 0:07:01  loss 5.132
package struct ProgressBar {
    private let label: String
    private let unit: String
    private let total: Int
    private let first: Int
    private let startedAt: Double
    private var shownAt = -Double.infinity
    private var shownDone = -1
    private let output: StandardError
    private let now: () -> Double

    /// Seconds between drawings.
    static let terminalInterval = 0.1
    static let plainInterval = 10.0

    /// - Parameters:
    ///   - label: what is going on, e.g. `pretrain`.
    ///   - unit: what is counted, in the plural.
    ///   - total: 0 when unknown: then without bar, share and ETA.
    ///   - first: already done before this process (a resumed run), so that it does not count for the rate.
    ///   - elapsed: seconds that the work has lasted already.
    package init(label: String, unit: String, total: Int, first: Int = 0, elapsed: Double = 0) {
        self.init(
            label: label, unit: unit, total: total, first: first, output: .shared,
            now: ProgressBar.monotonicSeconds, elapsed: elapsed)
    }

    init(
        label: String, unit: String, total: Int, first: Int, output: StandardError, now: @escaping () -> Double,
        elapsed: Double = 0
    ) {
        self.label = label
        self.unit = unit
        self.total = total
        self.first = first
        self.output = output
        self.now = now
        startedAt = now() - elapsed
    }

    /// - Parameters:
    ///   - done: of `total`.
    ///   - detail: shown at the end while there is room, e.g. `loss 5.132`.
    package mutating func update(done: Int, detail: String = "") {
        let time = now()
        guard time - shownAt >= (output.isTerminal ? ProgressBar.terminalInterval : ProgressBar.plainInterval) else {
            return
        }
        show(done: done, detail: detail, time: time)
    }

    /// Shows the last state whatever the time, and moves to a new line.
    package mutating func finish(done: Int, detail: String = "") {
        if done != shownDone || output.isTerminal { show(done: done, detail: detail, time: now()) }
        if output.isTerminal { output.leaveBar() }
    }

    /// A second.
    func rate(_ done: Int, at time: Double) -> Double {
        time > startedAt ? Double(done - first) / (time - startedAt) : 0
    }

    private mutating func show(done: Int, detail: String, time: Double) {
        shownAt = time
        shownDone = done
        let rate = rate(done, at: time)
        if output.isTerminal {
            // The last column stays free: some terminals wrap when it is written.
            output.draw(bar: ProgressBar.line(
                label: label, unit: unit, done: done, total: total, rate: rate, detail: detail,
                columns: output.columns - 1))
        } else {
            output.print(ProgressBar.line(
                label: label, unit: unit, done: done, total: total, rate: rate, detail: detail, columns: nil))
        }
    }

    /// At most `columns` characters; with nil, a plain line of any length without a bar. Parts give way in this order:
    /// bar, detail, ETA, rate, unit.
    static func line(
        label: String, unit: String, done: Int, total: Int, rate: Double, detail: String, columns: Int?
    ) -> String {
        let count = total > 0 ? "\(done)/\(total)" : "\(done)"
        let percent = total > 0 ? "\(Int(100 * Double(min(max(done, 0), total)) / Double(total)))%" : nil
        let speed = "\(rounded(rate))/s"
        let remaining = total > done && rate > 0 ? "ETA \(clock(Double(total - done) / rate))" : nil
        let clean = detail.filter { !$0.isNewline }
        let counted = "\(count) \(unit)"
        let full =
            [percent.map { "\($0) \(counted)" } ?? counted, speed, remaining, clean.isEmpty ? nil : clean].compactMap {
            $0
        }
        guard let columns else { return "\(label) " + full.joined(separator: "  ") }

        if let percent {
            // Right-aligned, so that the line does not jump at 10 %.
            let tail = String(repeating: " ", count: max(0, 4 - percent.count)) + full.joined(separator: "  ")
            let width = min(columns - label.count - tail.count - 2, 40)
            if width >= 8 {
                let filled = Int(Double(width) * Double(min(max(done, 0), total)) / Double(total))
                return
                    "\(label) \(String(repeating: "━", count: filled))\(String(repeating: "─", count: width - filled)) \(tail)"
            }
        }
        let shorter: [[String?]] = [
            [label, percent, counted, speed, remaining, clean.isEmpty ? nil : clean],
            [label, percent, counted, speed, remaining],
            [label, percent, count, speed, remaining], [percent, count, speed], [percent ?? count],
        ]
        for parts in shorter {
            let text = parts.compactMap { $0 }.joined(separator: " ")
            if text.count <= columns { return text }
        }
        return ""
    }

    /// Three significant digits, without an exponent.
    static func rounded(_ value: Double) -> String {
        guard value.isFinite, value >= 0, value < 1e15 else { return "?" }
        let places = value >= 100 ? 0 : value >= 10 ? 1 : 2
        let scale = [1, 10, 100][places]
        let units = Int((value * Double(scale)).rounded())
        guard places > 0 else { return "\(units)" }
        let fraction = "\(units % scale)"
        return "\(units / scale)." + String(repeating: "0", count: places - fraction.count) + fraction
    }

    /// h:mm:ss, or days for what is far off.
    static func clock(_ seconds: Double) -> String {
        guard seconds.isFinite, seconds < 1e9 else { return "?" }
        let s = Int(seconds.rounded(.up))
        func two(_ n: Int) -> String { n < 10 ? "0\(n)" : "\(n)" }
        let time = "\(s % 86_400 / 3600):\(two(s / 60 % 60)):\(two(s % 60))"
        return s >= 86_400 ? "\(s / 86_400)d \(time)" : time
    }

    static func monotonicSeconds() -> Double {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return Double(time.tv_sec) + Double(time.tv_nsec) * 1e-9
    }
}
