/// Which class of a reference set each class of another set is: by name, whatever the order of either.
///
/// Names are compared in one Unicode normal form (Swift's strings are: `é` is one class however it is written), and
/// names of digits alone as numbers, so that `07` is `7`.
public struct ClassMatching: Equatable, Sendable {
    /// The label of every reference class; classes whose names are equal share the first one's.
    public let referenceLabels: [Int]
    /// The reference label of every query class; nil where the reference set lacks it.
    public let queryLabels: [Int?]

    /// - Throws: ``EvaluationError`` for a number that two reference classes are ("7" and "07" against "007").
    public init(reference: [String], query: [String]) throws(EvaluationError) {
        var byName: [String: Int] = [:], byNumber: [String: [Int]] = [:]
        var labels: [Int] = []
        for (label, name) in reference.enumerated() {
            let known = byName[name]
            labels.append(known ?? label)
            if known == nil {
                byName[name] = label
                if let number = Self.number(name) { byNumber[number, default: []].append(label) }
            }
        }
        referenceLabels = labels
        var matched: [Int?] = []
        for name in query {
            if let label = byName[name] {
                matched.append(label)
                continue
            }
            let same = Self.number(name).flatMap { byNumber[$0] } ?? []
            if same.count > 1 {
                let names = same.map { "'\(reference[$0])'" }.joined(separator: " and ")
                throw EvaluationError("class '\(name)' is the number of the reference classes \(names)")
            }
            matched.append(same.first)
        }
        queryLabels = matched
    }

    /// Digits without zeros in front; nil for any other name.
    private static func number(_ name: String) -> String? {
        guard !name.isEmpty, name.utf8.allSatisfy({ (0x30...0x39).contains($0) }) else { return nil }
        let digits = name.drop { $0 == "0" }
        return digits.isEmpty ? "0" : String(digits)
    }
}
