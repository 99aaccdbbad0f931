import HSSLFormats

/// What a search found: how far each head is ahead of the base, and which one to take.
public struct SearchResult: Equatable, Sendable {
    /// One candidate, measured on images that nobody learnt from.
    public struct Row: Equatable, Sendable {
        /// Its family; `base` for the reference.
        public var head: String
        /// H(q, probe) − H(q, head), nats: how much worse the base says what the head will say than the head itself
        /// does. It ranks.
        public var gap: Double
        /// Standard error of the mean over the images.
        public var gapError: Double
        /// H(q, head), nats.
        public var headLoss: Double
        /// 1 − mean cosine of the probe's and the head's bottleneck vectors.
        public var cosineDistance: Double
        /// 1 − unbiased linear CKA of the teacher's base and head global features.
        public var ckaDistance: Double
        /// exp of the entropy of the mean target: of so many prototypes use is made.
        public var targetPerplexity: Double
        /// Of the head's global features (of the base's for the reference).
        public var effectiveRank: Double
        /// Of the head's blocks and norms.
        public var parameters: Int
        /// Of one image's forward pass through them.
        public var multiplyAdds: Int

        package init(
            head: String, gap: Double, gapError: Double, headLoss: Double, cosineDistance: Double, ckaDistance: Double,
            targetPerplexity: Double, effectiveRank: Double, parameters: Int, multiplyAdds: Int
        ) {
            (self.head, self.gap, self.gapError, self.headLoss) = (head, gap, gapError, headLoss)
            (self.cosineDistance, self.ckaDistance) = (cosineDistance, ckaDistance)
            (self.targetPerplexity, self.effectiveRank) = (targetPerplexity, effectiveRank)
            (self.parameters, self.multiplyAdds) = (parameters, multiplyAdds)
        }
    }

    /// A head with fewer than this share of the base's target classes or directions has collapsed.
    public static let eligibleShare = 0.25

    /// Candidates, the largest gap first.
    public let rows: [Row]
    /// The base's own feature in a head's place: it has no gap but what chance gives it.
    public let base: Row
    /// Held-out images that were read.
    public let images: Int

    /// - Parameters:
    ///   - rows: of the candidates, in any order.
    ///   - base: of the reference.
    package init(rows: [Row], base: Row, images: Int) {
        self.rows = rows.sorted { a, b in
            // What is not a number goes to the end.
            a.gap.isNaN || b.gap.isNaN ? !a.gap.isNaN && b.gap.isNaN : a.gap > b.gap
        }
        (self.base, self.images) = (base, images)
    }

    /// Why a head may not win; nil: it may.
    public func objection(to row: Row) -> String? {
        guard row.gap.isFinite, row.gapError.isFinite else { return "not finite" }
        func isLow(_ value: Double, _ base: Double) -> Bool { !(value >= Self.eligibleShare * base) }
        if isLow(row.targetPerplexity, base.targetPerplexity) { return "targets collapsed" }
        if isLow(row.effectiveRank, base.effectiveRank) { return "features collapsed" }
        return nil
    }

    /// The cheapest of those within one standard error of the best eligible head (fewest multiply-adds, then
    /// parameters); nil: none is eligible.
    public var winner: Row? {
        let eligible = rows.filter { objection(to: $0) == nil }
        guard let best = eligible.first else { return nil }
        return eligible.filter { $0.gap >= best.gap - best.gapError }
            .min { ($0.multiplyAdds, $0.parameters) < ($1.multiplyAdds, $1.parameters) }
    }

    /// Why the winner is not to be trusted; nil: nothing speaks against it.
    public var doubt: String? {
        guard let winner, winner.gap <= max(0, base.gap) else { return nil }
        let (gap, own) = (fixed(winner.gap, places: 4), fixed(base.gap, places: 4))
        return "\(winner.head) wins, but the base sees nearly all that it sees (gap \(gap), of the base's own feature "
            + "\(own)): more updates say more (schedule.epochs, --share)"
    }

    /// Why nobody wins, in one line; nil: somebody does.
    public var failure: String? {
        guard winner == nil else { return nil }
        let reasons = rows.map { "\($0.head): \(objection(to: $0) ?? "")" }
        return "no head is eligible (\(reasons.joined(separator: ", ")))"
    }

    // MARK: Text

    /// A heading and a line a head, then the reference, as columns.
    package var cells: [[String]] {
        let winner = winner?.head
        let heading = [
            "head", "gap (nats)", "1 − cos", "1 − CKA", "target classes", "rank", "parameters", "multiply-adds", "",
        ]
        func line(_ row: Row, _ remark: String) -> [String] {
            [
                row.head, "\(fixed(row.gap, places: 4)) ± \(fixed(row.gapError, places: 4))",
                fixed(row.cosineDistance, places: 4), fixed(row.ckaDistance, places: 4),
                fixed(row.targetPerplexity, places: 1), fixed(row.effectiveRank, places: 1),
                fixed(Double(row.parameters), places: 0), fixed(Double(row.multiplyAdds), places: 0), remark,
            ]
        }
        return [heading] + rows.map { line($0, $0.head == winner ? "winner" : objection(to: $0) ?? "") }
            + [line(base, "reference")]
    }

    /// For a terminal.
    public var table: String {
        let cells = self.cells
        let widths = cells[0].indices.map { column in cells.map { $0[column].count }.max() ?? 0 }
        return cells.map { line in
            let padded = zip(line, widths).enumerated().map { place, cell in
                let space = String(repeating: " ", count: cell.1 - cell.0.count)
                // Names and remarks to the left, figures to the right.
                return place == 0 || place == line.count - 1 ? cell.0 + space : space + cell.0
            }.joined(separator: "  ")
            return String(padded.reversed().drop { $0 == " " }.reversed())
        }.joined(separator: "\n")
    }

    /// For `--json`.
    package var json: JSONValue {
        func object(_ row: Row, candidate: Bool) -> JSONValue {
            var object = JSONObject()
            object["head"] = .string(row.head)
            if candidate {
                let objection = objection(to: row)
                object["eligible"] = .bool(objection == nil)
                if let objection { object["objection"] = .string(objection) }
            }
            for (key, value) in [
                ("gap", row.gap), ("gap_error", row.gapError), ("head_loss", row.headLoss),
                ("cosine_distance", row.cosineDistance), ("cka_distance", row.ckaDistance),
                ("target_perplexity", row.targetPerplexity), ("effective_rank", row.effectiveRank),
            ] { object[key] = value.isFinite ? .number(value) : .null }
            object["parameters"] = .integer(row.parameters)
            object["multiply_adds"] = .integer(row.multiplyAdds)
            return .object(object)
        }
        return [
            "winner": winner.map { .string($0.head) } ?? .null, "held_out_images": .integer(images),
            "heads": .array(rows.map { object($0, candidate: true) }), "base": object(base, candidate: false),
        ]
    }
}
