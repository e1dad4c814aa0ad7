"""What counts as the same answer, one line a pair."""

from __future__ import annotations

import pytest

from answer_table import pairs
from lorid_engine.solver.answers import equivalent

EQUAL = r"""
84 | 84
084 | 84
+84 | 84
-0 | 0
.5 | 0.5
-7 | −7
５２ | 52
٤٢ | 42
4,321 | 4321
7,654,321.50 | 7654321.5
1{,}000 | 1000
\$1{,}000 | $1000
11,\! 222 | 11222
362,\!880 | 362880
10\,000 | 10000
10 000 | 10000
1 234 567 | 1,234,567
0.6666666667 | 2/3
0.142857143 | \frac{1}{7}
33.3333333% | 1/3
1.41421356 | \sqrt{2}
0.\overline{3} | 1/3
0.1\overline{6} | 1/6
0.333... | 1/3
0.(3) | 1/3
$25.00 | 25
$5.50 | 5.5 dollars
$5.50 | 5.50
-$5 | $-5
-$5 | -5
USD 18 | 18 dollars
18 USD | $18
18€ | 18 euros
€18 | 18
£5 | 5 pounds
$1,234.50 | 1234.5
$1.2 million | 1200000
3.5 million | 3,500,000
$18 profit | 18
7 bananas | 7
7 bananas | seven bananas
7 red bananas | 7 bananas
12 cups of flour | 12
12 cups of flour | 12 cups
3 times | 3
5 km | 5 kilometers
3 hrs | 3 hours
1 foot | 1 feet
6 boxes | 6 box
4 berries | 4 berry
8 people | 8
5\text{ cm} | 5 cm
5\text{ cm}^2 | 5 cm^2
5\text{ cm}^2 | 5 square centimeters
5 sq. cm | 5 cm²
5 cm^2 | 5
7\mathrm{m} | 7 meters
12 m/s | 12 meters per second
60 mph | 60 miles per hour
$5 per hour | 5 dollars per hour
$5 an hour | $5/hour
30^\circ | 30
30^{\circ} | 30°
30 degrees | 30^\circ
2\sqrt{3}\text{ cm} | 2\sqrt{3}
4\pi square inches | 4\pi
75% | 75
75% | 0.75
75% | 3/4
0.5% | 0.005
half | 1/2
\frac{3}{4} | 0.75
\frac34 | 3/4
\frac 43 | 4/3
\dfrac{4}{6} | \tfrac{2}{3}
-\frac{3}{4} | \frac{-3}{4}
-\frac{3}{4} | \frac{3}{-4}
½ | 0.5
2½ | 2.5
1⁄2 | 1/2
2 1/2 | 2.5
2\frac{1}{2} | 5/2
6 \frac{3}{4} | 6.75
-2 1/2 | -2.5
1/2 hour | half an hour
1.5e3 | 1500
1.5 x 10^3 | 1500
1.5 × 10³ | 1500
1.5\times 10^{3} | 1500
1.5 * 10^-3 | 0.0015
1e400 | 10^{400}
2^{10} | 1024
2**10 | 1024
5! | 120
\binom{5}{2} | 10
2+3 | 5
2+3=5 | 5
six | 6
twenty-five | 25
Twenty five apples | 25
one hundred and five | 105
one hundred five | 105
two thousand three hundred and four | 2304
one million | 1000000
negative five | -5
three point five | 3.5
two thirds | 2/3
two and a half | 2.5
one-half | 0.5
three-quarters | 75%
6 (six) | 6
3 dozen | three dozen
5th | fifth
\sqrt{12} | 2\sqrt{3}
√12 | 2\sqrt3
sqrt(12) | 2*sqrt(3)
\frac{1}{\sqrt{2}} | \frac{\sqrt{2}}{2}
\frac{1}{1+\sqrt{2}} | \sqrt{2}-1
\frac{\sqrt{3}}{2} | \sqrt{3}/2
\sqrt{3+2\sqrt{2}} | 1+\sqrt{2}
\sqrt[3]{54} | 3\sqrt[3]{2}
2^{1/2} | \sqrt{2}
\sqrt{-4} | 2i
(1+i)^2 | 2i
\frac{3}{2} + \frac{3}{2} i | \frac{3+3i}{2}
\frac{4}{3}\pi | \frac{4\pi}{3}
4π/3 | \frac{4}{3}\pi
(x+1)^2 | x^2+2x+1
(x+1)(x-1) | x^2 - 1
xy | yx
2ab | 2ba
3x+2y | 2y+3x
\frac{x^2-1}{x-1} | x+1
\frac{1}{x} | x^{-1}
\frac{x}{2} | 0.5x
\sin x | \sin(x)
|x-1| | \left|x-1\right|
x^{12} | x^12
x=7 | 7
7=x | x = 7
x=7 | 7=x
y=3x-1 | 3x-1=y
y=3x-1 | 3x-y=1
2x+4y=6 | x+2y=3
34x+45y-20z+100=0 | -34x-45y+20z-100=0
f(x)=2x+1 | 2x+1
\angle ABC = 30^\circ | 30
x = 2+3 = 5 | 5
x=1 or x=2 | x=2 or x=1
x=1 or x=2 | \{1,2\}
x=1, y=2 | y=2, x=1
\pm 2 | 2, -2
\pm 2 | -2, 2
1 \pm \sqrt{2} | 1+\sqrt{2}, 1-\sqrt{2}
±3 | \pm 3
(3, 4) | (3,4)
\left( 3, -\frac{1}{4} \right) | (3, -0.25)
(x,y) = (1,2) | (1,2)
(1,234, 5) | (1234, 5)
\{5,3\} | \{3,5\}
\{5,3\} | {3, 5}
\{1,2\} | 1 and 2
\emptyset | \{\}
\emptyset | {}
(-oo, 3] | (-\infty,3]
[3, Infinity) | [3, infty)
(-\infty, 3] | (-\infty,3]
(-inf, 3] | (-∞,3]
x \in [0,1] | [0,1]
x > 5 | (5,\infty)
5 < x | x > 5
2x > 10 | x > 5
0 \le x < 1 | [0,1)
1 > x >= 0 | [0,1)
(-\infty,1) \cup (2,\infty) | (2,\infty)\cup(-\infty,1)
x<1 or x>2 | (-\infty,1) \cup (2,\infty)
7, 9, 12 | 7,9,12
1 and 2 | 1, 2
1, 2, and 3 | 1, 2, 3
5 apples and 3 pears | 5 apples, 3 pears
salt and pepper | salt, pepper
2 hours 30 minutes | 2 hours and 30 minutes
Monday | monday.
\text{Monday} | Monday
\mathrm{odd} | odd
**Monday** | Monday
"Monday" | Monday
(C) | C
C) | C
C. | C
\text{(C)} | C
\textbf{(C)} | (C)
option C | C
(C) 12 | C
(C) 12 | (C) 12.0
\begin{pmatrix} 1 \\ 2 \end{pmatrix} | \begin{pmatrix}1\\2\end{pmatrix}
\begin{pmatrix} 5/3 & 1 \\ 0 & 2 \end{pmatrix} | \begin{bmatrix} \frac{5}{3} & 1 \\ 0 & 2 \end{bmatrix}
[[1,2],[3,4]] | \begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}
4210_7 | 4210_{7}
4210_{\text{seven}} | 4210_7
3:2 | 3 : 2
3:2 | 6:4
3:2 | 3 to 2
3:2 | \frac{3}{2}
10:30 am | 10:30 AM
10:30 a.m. | 10:30 am
10:30 | 10:30 am
10 am | 10:00 am
May 5 | 5 May
May 5, 2020 | May 5th, 2020
\boxed{17} | 17
$17$ | 17
\(17\) | 17
$\frac{1}{2}$ | 0.5
#### 17 | 17
The answer is 17. | 17
\left(\frac{1}{2}\right)^2 | 0.25
\langle 1,2 \rangle | ⟨1, 2⟩
98765432109876543210 | 98,765,432,109,876,543,210
9**9**9 | 9**9**9
$x^2$ | x²
x₁ | x_1
12\text{ apples} | 12
\infty | ∞
ab+c | c+ba
72 | 72 clips in total
5 percent | five percent
Rs. 50 | 50 rupees
16^{\text{th}} | 16
3\times 10^8 | 3e8
5~cm | 5\;\mathrm{cm}
x^2+y^2-4=0 | 4=x^2+y^2
"""

DIFFERENT = r"""
84 | 85
-84 | 84
100000 | 100001
1000000 | 1000001
1e-9 | 0
0 | 1e-400
0.333 | 1/3
0.33 | 1/3
3.14 | \pi
0.9999999 | 1
1.0000000000000001 | 1
0.1234567890123456789 | 0.1234567890123456788
333333 | 1000000/3
9007199254740995 | 9007199254740994
€25 | $25
$0.25 | 25 cents
90 minutes | 1.5 hours
5 cm | 5 m
5 cm | 5 cm^2
5 apples | 5 oranges
7 red bananas | 7 green bananas
10 am | 10 pm
10:30 am | 10:30 pm
10:30 | 10:31
60 mph | 60 miles
5x | 5
5m | 5
5xyz | 5
5 less than x | 5
at least 5 | 5
5 or more | 5
50% | 5000
50% | 0.05
50% | 50 dollars
0.5% | 50%
21/2 | 2 1/2
2 1/3 | 21/3
1/2x | \frac{1}{2x}
1/2x | x/2
3 dozen | 36
fifth | 1/5
one fifth | 5
twenty five | 20, 5
five six | 56
half | 2
1.000,5 | 1000.5
1,5 | 1.5
\sqrt{8} | 2\sqrt{3}
\sqrt{x^2} | x
\sqrt{2}+\sqrt{3} | \sqrt{5}
(x+1)^2 | x^2+1
x^2 | 2x
2^x | x^2
y=2x+3 | y=2x-3
x=5 | y=5
x=5 | 6
x=x+5 | x+5
x \ne 5 | 5
x \ne 5 | x = 5
x>5 | 5
x>5 | x<5
x>5 | x \ge 5
x>5 | y>5
-x>5 | x>5
2x+4y=6 | x+2y=4
(0,1) | [0,1]
[0,1) | (0,1]
(1,2) | (2,1)
(1,2) | \{1,2\}
(1,2) | (1,2,3)
1, 2, 3 | 3, 2, 1
1, 2, 3 | 1, 2
{1,2} | {1,3}
(10,200) | 10200
\pm 2 | 2
\pm 2 | 3, -2
(-\infty,1) \cup (2,\infty) | (-\infty,1)
Monday | Sunday
yes | True
no | False
no | on
odd | dod
cat | act
(A) | (B)
A | B
(B) 12 | (B) 13
(B) 12 | 12
4210_7 | 4210_8
4210_7 | 4210
3:2 | 2:3
May 5 | May 6
2020-12-25 | 1983
555-1234 | -679
None | None
nan | nan
NaN | NaN
nan | 5
None | 5
inf | 5
\infty | -\infty
1/0 | 1/0 + 1
9**9**9 | 9
1000000000! | 1
10**10**10 | 10
5; import os | 5
__import__('os').system('touch canary') | 5
().__class__.__bases__[0] | 0
\begin{pmatrix} 1 \\ 2 \end{pmatrix} | \begin{pmatrix} 2 \\ 1 \end{pmatrix}
\begin{pmatrix} 1 \\ 2 \end{pmatrix} | \begin{pmatrix} 1 & 2 \end{pmatrix}
\begin{vmatrix} 1 & 2 \\ 3 & 4 \end{vmatrix} | \begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}
2 hours 30 minutes | 2
2 hours 30 minutes | 2 hours
i | -i
x_1 | x_2
\sin x | \cos x
\frac{x^2-1}{x-1} | x-1
Room 5 | 5
e | \pi
12 | 1 2
3 5 | 35
1, 234 | 1,234
100,200 | 100, 200
1. 5 | 1.5
1,000, 2 | 1,0002
5<395 | 5<195
2=8 | 0=8
y \in | a \in
4 r 1 | 4
7 days | 1 week
p - q | q - p
"""


@pytest.mark.parametrize(("a", "b"), pairs(EQUAL))
def test_same_answer(a: str, b: str) -> None:
    assert equivalent(a, b)
    assert equivalent(b, a)
    assert equivalent(a, a)
    assert equivalent(b, b)


@pytest.mark.parametrize(("a", "b"), pairs(DIFFERENT))
def test_different_answer(a: str, b: str) -> None:
    assert not equivalent(a, b)
    assert not equivalent(b, a)


def test_table_is_large() -> None:
    assert len(pairs(EQUAL)) + len(pairs(DIFFERENT)) >= 200
